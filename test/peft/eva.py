"""Writes eva.json: how PEFT shares out ranks, on the golden model base/llama. Run from this folder with peft 0.21.2."""
import json
import os

import torch
from peft import LoraConfig, get_peft_model, initialize_lora_eva_weights
from peft.tuners.lora.config import EvaConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

base = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../fixtures/peft/base/llama")
inputs = {key: value.long() for key, value in load_file(os.path.join(base, "inputs.safetensors")).items()}
cases = []
for options in [
    dict(eva=dict(rho=2.0), r=2, targets=["q_proj", "down_proj", "o_proj"]),
    dict(eva=dict(rho=1.5, use_label_mask=False, adjust_scaling_factors=False), r=3, targets=["o_proj", "down_proj"], pattern={"o_proj": 2}),
    dict(eva=dict(rho=3.0, tau=0.95, whiten=True), r=1, targets=["q_proj", "o_proj", "gate_proj", "down_proj"]),
]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=options["r"], lora_alpha=6, target_modules=options["targets"], rank_pattern=options.get("pattern", {}), init_lora_weights="eva", eva_config=EvaConfig(**options["eva"]), task_type="CAUSAL_LM")
    model = get_peft_model(model, config)
    # one batch as it is, one with its tokens in another order
    other = {key: value.flip(1) for key, value in inputs.items()}
    initialize_lora_eva_weights(model, dataloader=[inputs, other], show_progress_bar=False)
    layers = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A"):
            A = module.lora_A["default"].weight.detach()
            layers[name.replace("base_model.model.", "", 1)] = {"rank": module.r["default"], "scaling": module.scaling["default"], "A": [round(x, 5) for x in A.abs().flatten().tolist()]}
    found = model.peft_config["default"]
    cases.append({"options": options, "layers": layers, "targets": sorted(found.target_modules), "rank_pattern": found.rank_pattern, "alpha_pattern": found.alpha_pattern})
with open("eva.json", "w") as file:
    json.dump(cases, file)
    file.write("\n")
