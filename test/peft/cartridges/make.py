"""Cartridges and prefixes that peft begins as a text's keys and values, and puts together: `python make.py` writes expected.safetensors. See ../cartridges.test.ts."""
import os
import tempfile

import torch
from peft import CartridgeConfig, PeftModel, PrefixTuningConfig, get_peft_model
from peft.tuners.cartridge.utils import compose_cartridge_adapters, initialize_kv_prefix_from_text
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
here = os.path.dirname(os.path.abspath(__file__))
texts = {"one": [3, 9, 27, 4, 12, 36, 31], "two": [5, 25, 2, 10, 7]}
rest = torch.tensor([[14, 30, 22]])


class Words:
    """Reads a text that is numbers."""

    def __call__(self, text, **_):
        return {"input_ids": torch.tensor([[int(word) for word in text.split()]])}


def base(name):
    folder = os.path.join(here, "../../fixtures/peft/base", name)
    return AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


found = {"rest": rest.int(), **{f"tokens.{name}": torch.tensor(tokens).int() for name, tokens in texts.items()}}
with tempfile.TemporaryDirectory() as folder:
    for model_name in ("llama", "gpt2"):
        for name, tokens in texts.items():
            for kind, config in [
                ("cartridge", CartridgeConfig(task_type="CAUSAL_LM", num_virtual_tokens=4, num_frozen_tokens=2)),
                ("prefix", PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)),
            ]:
                model = get_peft_model(base(model_name), config)
                table = initialize_kv_prefix_from_text(model, Words(), text=" ".join(map(str, tokens)))
                found[f"{model_name}.{kind}.{name}"] = table
                if kind == "cartridge":
                    model.save_pretrained(os.path.join(folder, model_name, name))
        both = os.path.join(folder, model_name, "both")
        compose_cartridge_adapters([os.path.join(folder, model_name, name) for name in texts], output_path=both)
        found[f"{model_name}.both"] = load_file(os.path.join(both, "adapter_model.safetensors"))["prompt_embeddings"]
        model = PeftModel.from_pretrained(base(model_name), both).eval()
        with torch.no_grad():
            found[f"{model_name}.both.logits"] = model(rest).logits
save_file({k: v.detach().contiguous().clone() for k, v in found.items()}, os.path.join(here, "expected.safetensors"))
