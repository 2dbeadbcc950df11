"""AdaMSS on layers with no more outputs than `r`, by peft: `python make.py` writes adapter/ and logits.safetensors. See ../subspace.test.ts."""
import json
import os

import torch
from peft import AdamssConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
here = os.path.dirname(os.path.abspath(__file__))
base = os.path.join(here, "../../fixtures/peft/base/llama")
load = lambda: AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager", dtype=torch.float32)

torch.manual_seed(13)
# of k_proj and v_proj all rows are equally far from each other; of q_proj they are not
config = AdamssConfig(target_modules=["q_proj", "k_proj", "v_proj"], r=20, num_subspaces=6, subspace_rank=3, task_type="CAUSAL_LM")
model = get_peft_model(load(), config)
with torch.no_grad():
    for p in model.parameters():
        if p.requires_grad:
            p.add_(torch.randn_like(p) * 0.12)
adapter = os.path.join(here, "adapter")
model.save_pretrained(adapter)
os.remove(os.path.join(adapter, "README.md"))
path = os.path.join(adapter, "adapter_config.json")
with open(path) as file:
    saved = json.load(file)
with open(path, "w") as file:
    json.dump(dict(saved, base_model_name_or_path="base/llama", target_modules=sorted(saved["target_modules"])), file, indent=2, sort_keys=True)
ids = load_file(os.path.join(base, "inputs.safetensors"))["input_ids"].long()
beside = PeftModel.from_pretrained(load(), adapter).eval()
sizes = {name: [b.shape[0] for b in module.adamss_B["default"]] for name, module in beside.named_modules() if hasattr(module, "adamss_B")}
print(sizes)
with torch.no_grad():
    save_file({"logits": beside(ids).logits.contiguous()}, os.path.join(here, "logits.safetensors"))
