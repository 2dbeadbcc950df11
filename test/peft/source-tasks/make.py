"""A multitask prompt of three tasks and what peft starts from it: `python make.py` writes source/ and starts.safetensors. See ../source-tasks.test.ts."""
import json
import os

import torch
from peft import MultitaskPromptTuningConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
here = os.path.dirname(os.path.abspath(__file__))
base = os.path.join(here, "../../fixtures/peft/base/llama")
source = os.path.join(here, "source")


def make(seed, **options):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager", dtype=torch.float32)
    return get_peft_model(model, MultitaskPromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, num_ranks=2, **options))


model = make(5, num_tasks=3, prompt_tuning_init="RANDOM")
with torch.no_grad():
    for parameter in model.prompt_encoder["default"].parameters():
        parameter.normal_(0, 0.7)
model.save_pretrained(source)
os.remove(os.path.join(source, "README.md"))
config = os.path.join(source, "adapter_config.json")
with open(config) as file:
    saved = json.load(file)
with open(config, "w") as file:
    json.dump(dict(saved, base_model_name_or_path="base/llama"), file, indent=2, sort_keys=True)

ids = torch.tensor([[3, 9, 27, 4, 12]])
found = {"input_ids": ids.int()}
for init, task in [("AVERAGE_SOURCE_TASKS", 0), ("EXACT_SOURCE_TASK", 2), ("ONLY_SOURCE_SHARED", 0)]:
    path = os.path.join(source, "adapter_model.safetensors")
    model = make(6, num_tasks=1, prompt_tuning_init=init, prompt_tuning_init_task=task, prompt_tuning_init_state_dict_path=path)
    encoder = model.prompt_encoder["default"]
    found[f"{init}.prompt_embeddings"] = encoder.embedding.weight
    found[f"{init}.prefix_task_cols"] = encoder.prefix_task_cols
    found[f"{init}.prefix_task_rows"] = encoder.prefix_task_rows
    model.eval()
    found[f"{init}.logits"] = model(ids, task_ids=torch.zeros(1, dtype=torch.long)).logits
save_file({k: v.detach().contiguous().clone() for k, v in found.items()}, os.path.join(here, "starts.safetensors"))
