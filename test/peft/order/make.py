"""Two adapters of each method that are active together, in PEFT: `python make.py` writes order.json. See ../order.test.ts."""
import json
import os

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)
here = os.path.dirname(os.path.abspath(__file__))
layers = ["q_proj", "down_proj"]
# Not C3A: with two adapters PEFT gives the second what comes out of the first, which is neither their merging nor a sum.
methods = {
    "LORA": dict(r=2, lora_alpha=3, target_modules=[*layers, "embed_tokens"]),
    "DORA": dict(r=2, lora_alpha=3, use_dora=True, target_modules=[*layers, "embed_tokens"]),
    "ADALORA": dict(init_r=2, target_r=1, total_step=10, lora_alpha=3, target_modules=layers),
    "IA3": dict(target_modules=layers, feedforward_modules=["down_proj"]),
    "LOHA": dict(r=2, alpha=3, target_modules=layers),
    "LOKR": dict(r=2, alpha=3, target_modules=layers),
    "OFT": dict(oft_block_size=4, target_modules=[*layers, "embed_tokens"]),
    "BOFT": dict(boft_block_size=4, target_modules=layers),
    "HRA": dict(r=2, target_modules=layers),
    "ROAD": dict(variant="road_4", group_size=4, target_modules=layers),
    "HIRA": dict(r=2, target_modules=layers),
    "MISS": dict(r=4, init_weights="bat", target_modules=layers),
    "GRALORA": dict(r=2, gralora_k=2, target_modules=layers),
    "DELORA": dict(r=2, target_modules=layers),
}
classes = {type.value: cls for type, cls in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING.items()}


def rounded(tensor):
    return {"shape": list(tensor.shape), "values": [round(v, 6) for v in tensor.detach().double().flatten().tolist()]}


def base():
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=12, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, attention_bias=True, tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        parameter.data = (torch.randn_like(parameter) * 0.5).mul(2**10).round().div(2**10)
    return model


ids = torch.tensor([[1, 5, 3, 7, 11]])
found = {"ids": ids.tolist(), "methods": {}}
plain = base()
found["config"] = {k: v for k, v in plain.config.to_dict().items() if isinstance(v, (int, float, bool)) or k == "model_type"}
found["base"] = {key: rounded(value) for key, value in plain.state_dict().items()}
for name, options in methods.items():
    type = "LORA" if name == "DORA" else name
    make = lambda: classes[type](**options)
    torch.manual_seed(3)
    model = peft.get_peft_model(base(), make(), adapter_name="one")
    if type == "ADALORA":  # which has one trainable adapter at a time
        config = make()
        config.inference_mode = True
        model.add_adapter("two", config)
    else:
        model.add_adapter("two", make())
    own = {k: p for k, p in model.named_parameters() if ".one" in k or ".two" in k}
    for key, parameter in own.items():
        if "lora_magnitude" in key or "w_norm" in key or "ranknum" in key:
            continue
        parameter.data = (parameter + torch.randn_like(parameter) * 0.3).mul(2**10).round().div(2**10)
    buffers = {k: b for k, b in model.named_buffers() if ".one" in k or ".two" in k}
    model.eval()
    entry = {"type": type, "options": options, "parameters": {k: rounded(p) for k, p in {**own, **buffers}.items()}, "logits": {}}
    for order in [["one", "two"], ["two", "one"]]:
        model.base_model.set_adapter(order)
        entry["logits"][",".join(order)] = rounded(model(ids).logits)
    merged = model.base_model.merge_and_unload(adapter_names=["one", "two"])
    entry["logits"]["merged"] = rounded(merged(ids).logits)
    a, b = [torch.tensor(entry["logits"][k]["values"]) for k in ("one,two", "two,one")]
    print(name, "orders", (a - b).abs().max().item(), "merged", (a - torch.tensor(entry["logits"]["merged"]["values"])).abs().max().item())
    found["methods"][name] = entry
with open(os.path.join(here, "order.json"), "w") as file:
    json.dump(found, file)
