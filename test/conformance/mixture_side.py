"""Hugging Face's side of mixture.conformance.ts, in a folder of it.

FOLDER/base is a model, FOLDER/ours a mixture that lorikeet's saveArrow wrote, FOLDER/ids.safetensors what it is tried on. This writes
  ours.safetensors    logits of PEFT's Arrow model made from that folder, by what its arrow_router says
  theirs/             the same mixture as PEFT saves it before it has run
  later/              and after, when what is general has been taken out of the files
"""
import json
import os

import torch
import transformers
from peft.tuners.lora import ArrowConfig, create_arrow_model
from safetensors.torch import load_file, save_file


def main(root):
    ids = load_file(os.path.join(root, "ids.safetensors"))["input_ids"].long()
    base = transformers.AutoModelForCausalLM.from_pretrained(os.path.join(root, "base"), attn_implementation="eager", dtype=torch.float32)
    with open(os.path.join(root, "ours", "arrow_router", "adapter_config.json")) as file:
        said = json.load(file)["arrow_config"]
    within = lambda names: [os.path.join(root, "ours", name) for name in names]
    config = ArrowConfig(**{key: said[key] for key in ("top_k", "router_temperature", "use_gks", "rng_seed")})
    model = create_arrow_model(base, within(said["task_adapter_names"]), config, within(said["gks_adapter_names"])).eval()
    model.save_pretrained(os.path.join(root, "theirs"))
    with torch.no_grad():
        save_file({"logits": model(ids).logits.contiguous()}, os.path.join(root, "ours.safetensors"))
    model.save_pretrained(os.path.join(root, "later"))
