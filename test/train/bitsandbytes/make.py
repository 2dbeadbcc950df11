"""Makes the checkpoints of this folder: tiny models, and what transformers with bitsandbytes saves of them, on the CPU.

    python make.py [--seed N] [--out FOLDER]        with torch, transformers, accelerate and bitsandbytes (0.50.2 here)

<model>/base is in float32; <model>/<kind> is saved with load_in_4bit or load_in_8bit, with expected.json beside:
`ids`, `logits` (what the quantised model gave), `dequantised` (what it gives with the weights widened to float32 and multiplied as such).
"""
import argparse
import json
import os
import warnings

os.environ["TRANSFORMERS_OFFLINE"] = "1"
warnings.filterwarnings("ignore")
import torch
from transformers.integrations.bitsandbytes import dequantize_bnb_weight
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM



def widen(model):
    """Plain linear layers with the weights that the codes stand for."""
    for path, module in list(model.named_modules()):
        if not hasattr(getattr(module, "weight", None), "quant_state") and not hasattr(getattr(module, "weight", None), "SCB"):
            continue
        linear = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
        linear.weight.data = dequantize_bnb_weight(module.weight, getattr(module, "state", None)).float()
        if module.bias is not None:
            linear.bias.data = module.bias.data.float()
        model.set_submodule(path, linear)
    return model


parser = argparse.ArgumentParser()
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
args = parser.parse_args()
torch.manual_seed(args.seed)
extra = args.seed % 3

llama = LlamaForCausalLM(LlamaConfig(
    vocab_size=24 + extra, hidden_size=16 + 8 * extra, intermediate_size=27 + extra, num_hidden_layers=1, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=32, initializer_range=0.3))
gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=24, n_embd=12 + 4 * extra, n_layer=1, n_head=2, n_positions=32, initializer_range=0.3, bos_token_id=0, eos_token_id=0))
four = dict(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
kinds = {
    "llama": {
        "nf4": dict(four, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
        "fp4": dict(four, bnb_4bit_quant_type="fp4"),
        "int8": dict(load_in_8bit=True),
    },
    "gpt2": {"nf4": dict(four, bnb_4bit_quant_type="nf4"), "int8": dict(load_in_8bit=True)},
}
for name, model in (("llama", llama), ("gpt2", gpt2)):
    base = os.path.join(args.out, name, "base")
    model.save_pretrained(base)
    ids = torch.randint(0, 24, (2, 6))
    for kind, settings in kinds[name].items():
        folder = os.path.join(args.out, name, kind)
        quantised = AutoModelForCausalLM.from_pretrained(
            base, quantization_config=BitsAndBytesConfig(**settings), dtype=torch.float32, device_map="cpu")
        quantised.eval()
        quantised.save_pretrained(folder)
        with torch.no_grad():
            logits = quantised(ids).logits
            widened = widen(quantised)(ids).logits
        with open(os.path.join(folder, "expected.json"), "w") as file:
            json.dump({"ids": ids.tolist(), "logits": logits.flatten().tolist(), "dequantised": widened.flatten().tolist()}, file)
for folder, _, files in os.walk(args.out):
    if "generation_config.json" in files:
        os.remove(os.path.join(folder, "generation_config.json"))
