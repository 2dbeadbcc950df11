"""Which configs PEFT accepts: `python make.py` writes configs.json. See ../accepted.test.ts."""
import json
import os
import warnings

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

warnings.simplefilter("ignore")
torch.set_num_threads(1)
here = os.path.dirname(os.path.abspath(__file__))
classes = {type.value: cls for type, cls in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
q = ["q_proj"]
embedding = ["embed_tokens", "lm_head"]
text = r".*\.q_proj"

# what each method needs besides its targets
own = {
    "LORA": {}, "ADALORA": dict(total_step=100), "IA3": dict(feedforward_modules=[]), "LOHA": {}, "LOKR": {},
    "VERA": dict(r=4), "OFT": dict(oft_block_size=4), "BOFT": {}, "FOURIERFT": dict(n_frequency=4), "HRA": dict(r=2),
    "ROAD": dict(group_size=8), "HIRA": dict(r=2), "MISS": dict(r=4), "C3A": dict(block_size=4), "GRALORA": dict(r=4),
    "DELORA": dict(r=2), "VBLORA": dict(vector_length=4, num_vectors=8),
}
cases = []


def add(type, **options):
    cases.append({"type": type, "options": options})


for type, needed in own.items():
    fields = {field.name for field in classes[type].__dataclass_fields__.values()}
    targets = dict(needed, target_modules=q)
    add(type, **targets)
    add(type, **dict(needed, target_modules=text))
    add(type, **dict(needed, target_modules=["nothing"]))
    if "layers_to_transform" in fields:
        add(type, **targets, layers_to_transform=[0])
        add(type, **targets, layers_to_transform=0)
        add(type, **targets, layers_pattern="layers")
        add(type, **targets, layers_pattern=["layers"], layers_to_transform=[1])
        add(type, **dict(targets, target_modules=text), layers_to_transform=[0])
        add(type, **dict(targets, target_modules=text), layers_pattern="layers")
        add(type, **dict(targets, target_modules=text), layers_pattern="layers", layers_to_transform=[0])
        add(type, **targets, layers_to_transform=[9])
    if "exclude_modules" in fields:
        add(type, **targets, exclude_modules=q)
        add(type, **targets, exclude_modules=[])
    if "bias" in fields:
        add(type, **targets, bias="all")
        add(type, **targets, bias="some")
    add(type, **targets, modules_to_save=["lm_head"])
    add(type, **targets, modules_to_save=["q_proj"])
    add(type, **targets, task_type="CAUSAL_LM")
    add(type, **targets, task_type="CAUSAL")

variants = {
    "use_dora": True, "kasa_config": {}, "velora_config": {"num_groups": 2}, "use_bdlora": {"target_modules_bd_a": q, "nblocks": 2},
    "alora_invocation_tokens": [1],
}
for name, value in variants.items():
    add("LORA", r=2, target_modules=q, **{name: value})
    for other in variants:
        if other > name:
            add("LORA", r=2, target_modules=q, **{name: value, other: variants[other]})
    for init in ["gaussian", "orthogonal", "pissa", "olora", "mica", False]:
        add("LORA", r=2, target_modules=q, init_lora_weights=init, **{name: value})
    add("LORA", r=2, target_modules=q, lora_bias=True, **{name: value})
    add("LORA", r=2, target_modules=q, lora_dropout=0.1, **{name: value})
    add("LORA", r=2, target_modules=q, use_rslora=True, rank_pattern={"q_proj": 4}, **{name: value})
    add("LORA", r=2, target_modules=q, layer_replication=[[0, 2], [1, 2]], **{name: value})
    add("LORA", r=2, target_modules=embedding[:1], **{name: value})
    add("LORA", r=2, target_modules=[], target_parameters=["q_proj.weight"], **{name: value})
for init in [True, False, "gaussian", "orthogonal", "pissa", "pissa_niter_2", "olora", "mica", "loftq", "eva", "corda", "lora_ga", "nothing"]:
    add("LORA", r=2, target_modules=q, init_lora_weights=init)
    add("LORA", r=2, target_modules=q, init_lora_weights=init, lora_bias=True)
    add("LORA", r=2, target_modules=q, init_lora_weights=init, loftq_config={"loftq_bits": 4})
    add("LORA", r=2, target_modules=q, init_lora_weights=init, eva_config={})
    add("LORA", r=2, target_modules=q, init_lora_weights=init, corda_config={})
    add("LORA", r=2, target_modules=q, init_lora_weights=init, lora_ga_config={})
    add("LORA", r=2, target_modules=q, init_lora_weights=init, use_rslora=True, rank_pattern={"q_proj": 4})
    add("LORA", r=2, target_modules=[], target_parameters=["q_proj.weight"], init_lora_weights=init)
    add("LORA", r=2, target_modules=embedding[:1], init_lora_weights=init)
add("LORA", r=3, target_modules=q, init_lora_weights="orthogonal")
for more in [
    dict(lora_dropout=0.1), dict(lora_bias=True), dict(bias="all"), dict(fan_in_fan_out=True), dict(use_rslora=True),
    dict(trainable_token_indices=[1]), dict(layer_replication=[[0, 2]]), dict(modules_to_save=["lm_head"]),
]:
    add("LORA", r=2, target_modules=[], target_parameters=["q_proj.weight"], **more)
add("LORA", r=2, target_parameters=["q_proj.weight"])
add("LORA", r=2, target_modules=[], target_parameters=["nothing.weight"])
add("LORA", r=2, target_modules=q, target_parameters=["q_proj.weight"])
add("LORA", r=2, target_modules=q, target_parameters="q_proj.weight")
add("LORA", r=2, target_modules=[])
add("LORA", r=2)
for tying in [dict(target_modules=embedding), dict(target_modules=q), dict(target_modules=q, modules_to_save=embedding)]:
    add("LORA", r=2, ensure_weight_tying=True, **tying)
add("LORA", r=2, ensure_weight_tying=True, target_modules=q, trainable_token_indices=[1])
add("LORA", r=2, target_modules=q, layer_replication=[[0, 2], [0, 1]])
add("LORA", r=2, target_modules=q, layer_replication=[])
add("LORA", r=2, target_modules=q, layer_replication=[[0, 2]], modules_to_save=["lm_head"])
add("LORA", r=2, target_modules=q, trainable_token_indices=[1], modules_to_save=["embed_tokens"])
add("LORA", r=2, target_modules=embedding, trainable_token_indices=[1])
add("LORA", r=2, target_modules=embedding[:1], lora_bias=True)
add("LORA", r=2, target_modules=embedding[:1], lora_dropout=0.1)
add("LORA", r=2, target_modules=q, lora_dropout=1.0)
add("LORA", r=2, target_modules=q, lora_alpha=0)
add("LORA", r=0, target_modules=q)
add("LORA", r=-1, target_modules=q)
add("LORA", r=2, target_modules=q, rank_pattern={"q_proj": 0})
add("LORA", r=2, target_modules=q, rank_pattern={"v_proj": 0})
add("LORA", r=2, target_modules=q, alpha_pattern={"q_proj": 3})
add("LORA", r=2, target_modules=q, velora_config={"num_groups": 0})
add("LORA", r=2, target_modules=q, velora_config={"num_groups": 2, "scale": 0})
add("LORA", r=2, target_modules=q, velora_config={"num_groups": 2, "init_type": "nothing"})
add("LORA", r=2, target_modules=q, velora_config={"num_groups": 2, "init_type": "batch_average_once"})
add("LORA", r=2, target_modules=q, alora_invocation_tokens=[])
add("LORA", r=2, target_modules=q, alora_invocation_tokens=[1, 2], task_type="CAUSAL_LM")
add("LORA", r=16, target_modules=q, kasa_config={})
add("LORA", r=3, target_modules=q, use_bdlora={"target_modules_bd_a": q, "nblocks": 2})
add("LORA", r=2, target_modules=q, use_bdlora={"target_modules_bd_a": ["v_proj"], "nblocks": 2})
add("LORA", r=2, target_modules=q, use_bdlora={"target_modules_bd_a": ["v_proj"], "nblocks": 2, "match_strict": False})
for total, tinit, tfinal in [(None, 0, 0), (0, 0, 0), (100, 50, 50), (100, 49, 50), (100, 100, 0)]:
    add("ADALORA", total_step=total, tinit=tinit, tfinal=tfinal, target_modules=q)
add("ADALORA", total_step=100, target_modules=q, orth_reg_weight=-1.0)
add("ADALORA", total_step=100, target_modules=q, use_dora=True)
add("ADALORA", total_step=100, target_modules=q, loftq_config={"loftq_bits": 4})
add("ADALORA", total_step=100, target_modules=q, r=4)
add("ADALORA", total_step=100, target_modules=q, init_r=4, target_r=8)
add("ADALORA", total_step=100, target_modules=q, init_r=0)
add("OFT", r=2, oft_block_size=4, target_modules=q)
add("OFT", r=0, oft_block_size=0, target_modules=q)
add("OFT", r=2, oft_block_size=0, target_modules=q)
add("OFT", r=3, oft_block_size=0, target_modules=q)
add("OFT", oft_block_size=3, target_modules=q)
add("BOFT", boft_block_size=4, boft_block_num=2, target_modules=q)
add("BOFT", boft_block_size=0, boft_block_num=0, target_modules=q)
add("BOFT", boft_block_size=0, boft_block_num=2, target_modules=q)
add("BOFT", boft_block_size=3, target_modules=q)
add("ROAD", variant="road_3", group_size=8, target_modules=q)
add("ROAD", group_size=3, target_modules=q)
add("ROAD", group_size=0, target_modules=q)
add("ROAD", group_size=6, target_modules=q)
add("IA3", target_modules=q, feedforward_modules=["down_proj"])
add("IA3", target_modules=text, feedforward_modules=["down_proj"])
add("IA3", target_modules=[*q, "down_proj"], feedforward_modules=["down_proj"])
add("GRALORA", r=4, gralora_k=3, target_modules=q)
add("GRALORA", r=4, gralora_k=0, target_modules=q)
add("GRALORA", r=6, gralora_k=3, target_modules=q)
add("GRALORA", r=4, hybrid_r=5, target_modules=q)
add("DELORA", r=0, target_modules=q)
add("MISS", r=4, init_weights="bat", target_modules=q)
add("MISS", r=3, init_weights="bat", target_modules=q)
add("MISS", r=4, mini_r=4, init_weights="mini", target_modules=q)
add("MISS", r=4, mini_r=3, init_weights="mini", target_modules=q)
add("C3A", block_size=3, target_modules=q)
add("C3A", block_size=4, init_weights="nothing", target_modules=q)
add("VBLORA", vector_length=3, num_vectors=8, target_modules=q)
add("VBLORA", vector_length=4, num_vectors=8, topk=9, target_modules=q)
add("FOURIERFT", n_frequency=0, target_modules=q)
add("FOURIERFT", n_frequency=257, target_modules=q)
add("VERA", r=0, target_modules=q)
add("HRA", r=0, target_modules=q)
add("HIRA", r=0, target_modules=q)
add("LOHA", r=0, target_modules=q)
add("LOKR", r=0, target_modules=q)
add("LOKR", decompose_factor=0, target_modules=q)
for options in [
    dict(num_virtual_tokens=4), dict(), dict(num_virtual_tokens=4, prompt_tuning_init="TEXT"),
    dict(num_virtual_tokens=4, prompt_tuning_init="TEXT", prompt_tuning_init_text="a"),
    dict(num_virtual_tokens=4, tokenizer_kwargs={"a": 1}), dict(num_virtual_tokens=4, prompt_tuning_init="SAMPLE_VOCAB"),
]:
    add("PROMPT_TUNING", task_type="CAUSAL_LM", **options)
for type in ["PREFIX_TUNING", "P_TUNING"]:
    add(type, task_type="CAUSAL_LM", num_virtual_tokens=4)
    add(type, task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=8)
add("ADAPTION_PROMPT", task_type="CAUSAL_LM", adapter_len=4, adapter_layers=2)
add("ADAPTION_PROMPT", task_type="CAUSAL_LM", adapter_len=4, adapter_layers=3)
add("ADAPTION_PROMPT", task_type="CAUSAL_LM", adapter_len=4)
add("LN_TUNING", target_modules=["input_layernorm"])
add("TRAINABLE_TOKENS", token_indices=[1])
add("TRAINABLE_TOKENS", token_indices=[])

torch.manual_seed(0)
sizes = dict(vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)
for case in cases:
    case["refusedBy"], case["because"] = None, None
    try:
        config = classes[case["type"]](**json.loads(json.dumps(case["options"])))
    except Exception as error:
        case["refusedBy"], case["because"] = "config", str(error).split("\n")[0][:100]
        continue
    if case["options"].get("init_lora_weights") in ("loftq", "eva", "corda", "lora_ga"):
        continue  # what these need is no part of the config
    try:
        model = peft.get_peft_model(LlamaForCausalLM(LlamaConfig(**sizes)), config)
        model.train()
        model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    except Exception as error:
        case["refusedBy"], case["because"] = "model", f"{error.__class__.__name__}: {error}".split("\n")[0][:100]
with open(os.path.join(here, "configs.json"), "w") as file:
    rows = ",\n".join("    " + json.dumps(case) for case in cases)
    file.write('{\n  "model": ' + json.dumps(dict(model_type="llama", **sizes)) + ',\n  "configs": [\n' + rows + "\n  ]\n}\n")
print(len(cases), "configs,", sum(case["refusedBy"] is not None for case in cases), "refused")
