"""A training run of AdaMSS with adaptive subspace allocation, by peft: `python make.py` writes trace.json, start/ and end.safetensors. See ../asa.test.ts."""
import json
import os

import torch
from peft import AdamssConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
here = os.path.dirname(os.path.abspath(__file__))
base = os.path.join(here, "../../fixtures/peft/base/llama")
options = dict(
    r=12, num_subspaces=4, subspace_rank=2, use_asa=True, asa_target_subspaces=6, init_warmup=2, final_warmup=12,
    mask_interval=3, asa_schedule_exponent=2.0, asa_importance_beta=0.8, asa_uncertainty_beta=0.7, random_seed=3,
)
optimizing = dict(lr=0.02, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.3)
clip = 0.5
steps = 18

torch.manual_seed(11)
model = get_peft_model(
    AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager", dtype=torch.float32),
    AdamssConfig(target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM", **options),
)
model.save_pretrained(os.path.join(here, "start"))
os.remove(os.path.join(here, "start", "README.md"))
config = os.path.join(here, "start", "adapter_config.json")
with open(config) as file:
    saved = json.load(file)
with open(config, "w") as file:
    json.dump(dict(saved, base_model_name_or_path="base/llama", target_modules=sorted(saved["target_modules"])), file, indent=2, sort_keys=True)
tuner = model.base_model
layers = [(name, module) for name, module in tuner.model.named_modules() if hasattr(module, "adamss_A")]
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, **optimizing)
inputs = {k: v.long() for k, v in load_file(os.path.join(base, "inputs.safetensors")).items()}
mean = lambda module, of, k: (getattr(module, f"exp_avg_ipt_{of}")["default"][k] * getattr(module, f"exp_avg_unc_{of}")["default"][k]).mean()


def scores():
    """Of those that have been looked at since the last choice, by layer and subspace."""
    found = {}
    for name, module in layers:
        seen = module.exp_avg_ipt_A["default"]
        found[name] = [None if seen[k] is None else (mean(module, "A", k) + mean(module, "B", k)).item() for k in range(len(seen))]
    return found


mask = tuner._global_mask_to_target
noted = {}


def noting(target, adapter, asa_layers):
    noted.update(target=target, scores=scores())
    mask(target, adapter, asa_layers)


tuner._global_mask_to_target = noting
trace = []
model.train()
for step in range(steps):
    noted.clear()
    loss = model(**inputs).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(trained, clip)
    optimizer.step()
    tuner.update_and_allocate(step)
    optimizer.zero_grad()
    trained_now = {name: [p.requires_grad for p in module.adamss_A["default"]] for name, module in layers}
    assert trained_now == {name: [p.requires_grad for p in module.adamss_B["default"]] for name, module in layers}
    trace.append(
        dict(step=step, loss=loss.item(), norm=norm.item(), target=noted.get("target"), scores=noted.get("scores", scores()), trained=trained_now)
    )
    print(step, loss.item(), norm.item(), noted.get("target"), sum(sum(v) for v in trained_now.values()))
end = {k.replace(".default", ""): p.detach().clone() for k, p in model.named_parameters() if "adamss_" in k}
model.eval()
with torch.no_grad():
    end["logits"] = model(**inputs).logits
save_file({k: v.contiguous() for k, v in end.items()}, os.path.join(here, "end.safetensors"))
with open(os.path.join(here, "trace.json"), "w") as file:
    json.dump(dict(optimizing=optimizing, clip=clip, steps=trace), file, separators=(",", ":"))
