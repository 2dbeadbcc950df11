"""Hugging Face's side of peft.conformance.ts, in a folder of it.

FOLDER/cases.json lists {name, base, inputs, type, config, adapter, saveEmbeddingLayers, merges, writes}: `base` is a model folder that lorikeet wrote,
`inputs` what it is tried on, `merges` and `writes` whether it is merged and continues a text, `adapter` the folder of an adapter on it that lorikeet wrote, `type` and `config` the same adapter's options for PEFT. For every case this writes
  <name>/read.safetensors     logits with lorikeet's adapter: beside the weights, disabled, merged; logits of the model that
                              lorikeet merged and saved
  <name>/theirs/              an adapter that peft made with the same options and trained for one step
  <name>/theirs.safetensors   logits with it: beside the weights, disabled, merged
  <name>/notes.json           warnings that peft gave while it read lorikeet's adapter
"""
import json
import os
import warnings

import torch
import transformers
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from safetensors.torch import load_file, save_file


def base_model(folder):
    (name,) = transformers.AutoConfig.from_pretrained(folder).architectures
    model = getattr(transformers, name).from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    return model.eval()


def result(output):
    """Logits, of where an answer begins and ends, or states."""
    if "start_logits" in output:
        return torch.stack((output.start_logits, output.end_logits), -1)
    return output.logits if "logits" in output else output.last_hidden_state


@torch.no_grad()
def logits(model, inputs):
    # a model that answers takes the answer from its labels
    answers = model.config.is_encoder_decoder
    return result(model(**{name: value for name, value in inputs.items() if answers or name != "labels"})).contiguous().clone()


def tasks(inputs, rows):
    return {"task_ids": inputs["task_ids"][:rows]} if "task_ids" in inputs else {}


def three_ways(model, inputs, case):
    found = {"beside": logits(model, inputs)}
    if case["writes"]:
        ids = inputs["input_ids"][:1, :4]
        text = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=6, pad_token_id=0, **tasks(inputs, 1))
        found["written"] = text[0, 4:].int()
    if not case["merges"] and case["inputs"] in ("classes", "answers", "states"):  # peft fails to disable these prompts
        found["disabled"] = logits(base_model(case["folder"]), inputs)
    else:
        with model.disable_adapter():
            found["disabled"] = logits(model, {name: value for name, value in inputs.items() if name != "task_ids"})
    if not case["merges"]:
        return found
    found["merged"] = logits(model.merge_and_unload().eval(), inputs)
    return found


def run(root, case, inputs):
    folder = os.path.join(root, case["name"])
    base = case["folder"] = os.path.join(root, case["base"])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base_model(base), os.path.join(root, case["adapter"])).eval()
    notes = [str(w.message) for w in caught if "missing adapter keys" in str(w.message)]
    found = three_ways(model, inputs, case)
    if case["merges"]:
        found["saved_merged"] = logits(base_model(os.path.join(folder, "merged")), inputs)
    save_file(found, os.path.join(folder, "read.safetensors"))

    torch.manual_seed(7)
    model = get_peft_model(base_model(base), PEFT_TYPE_TO_CONFIG_MAPPING[case["type"]](**case["config"]))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-2)
    model.train()
    output = model(**inputs)
    (output.loss if "loss" in output else result(output).square().sum()).backward()
    optimizer.step()
    model.eval()
    model.save_pretrained(os.path.join(folder, "theirs"), save_embedding_layers=case["saveEmbeddingLayers"])
    save_file(three_ways(model, inputs, case), os.path.join(folder, "theirs.safetensors"))
    with open(os.path.join(folder, "notes.json"), "w") as file:
        json.dump(notes, file)


def main(root):
    with open(os.path.join(root, "cases.json")) as file:
        cases = json.load(file)
    inputs = {}
    for kind in ("texts", "images", "classes", "answers", "states", "answered"):
        tensors = load_file(os.path.join(root, f"{kind}.safetensors"))
        inputs[kind] = {name: value if value.is_floating_point() else value.long() for name, value in tensors.items()}
    for case in cases:
        given = inputs[case["inputs"]]
        if case["type"] in ("MULTITASK_PROMPT_TUNING", "POLY"):
            given = dict(given, task_ids=torch.zeros(len(given["input_ids"]), dtype=torch.long))
        run(root, case, given)
