"""Adapters of the experts of a small mixture, made by peft: `python make.py` writes the files beside it. See ../target-parameter.test.ts."""
import os

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

torch.set_num_threads(1)
here = os.path.dirname(os.path.abspath(__file__))


class Experts(torch.nn.Module):
    def __init__(self, experts, width, inner, is_transposed):
        super().__init__()
        self.is_transposed = is_transposed
        shape = lambda out, into: (experts, into, out) if is_transposed else (experts, out, into)
        self.gate_up_proj = torch.nn.Parameter(torch.randn(shape(inner, width)) * 0.5)
        self.down_proj = torch.nn.Parameter(torch.randn(shape(width, inner)) * 0.5)

    def forward(self, x, weights):
        through = (lambda x, w: x @ w) if self.is_transposed else (lambda x, w: x @ w.transpose(1, 2))
        y = through(torch.tanh(through(x[None], self.gate_up_proj)), self.down_proj)
        return (y * weights.T[:, :, None]).sum(0)


class Mixture(torch.nn.Module):
    def __init__(self, is_transposed):
        super().__init__()
        self.router = torch.nn.Linear(6, 3, bias=False)
        self.experts = Experts(3, 6, 5, is_transposed)

    def forward(self, x):
        return self.experts(x, torch.softmax(self.router(x), -1))


class Model(torch.nn.Module):
    def __init__(self, is_transposed):
        super().__init__()
        self.mlp = Mixture(is_transposed)

    def forward(self, x):
        return self.mlp(x)


for name, is_transposed in [("plain", False), ("transposed", True)]:
    torch.manual_seed(3 if is_transposed else 4)
    base = Model(is_transposed)
    found = {f"base.{k}": v.detach().clone() for k, v in base.state_dict().items()}
    x = torch.randn(4, 6)
    found["x"] = x
    found["y.disabled"] = base(x).detach().clone()
    config = LoraConfig(
        r=2,
        lora_alpha=6,
        target_modules=[],
        target_parameters=["experts.gate_up_proj", "mlp.experts.down_proj"],
        rank_pattern={"experts.down_proj": 3},
        init_lora_weights=False,
    )
    model = get_peft_model(base, config)
    y = model(x)
    found["y"] = y.detach().clone()
    y.square().sum().backward()
    for key, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"grad.{key.replace('.default', '')}"] = parameter.grad.clone()
    model.save_pretrained(os.path.join(here, name))
    merged = model.merge_and_unload()
    found["y.merged"] = merged(x).detach().clone()
    for key, value in merged.state_dict().items():
        found[f"merged.{key}"] = value.clone()
    save_file({k: v.contiguous() for k, v in found.items()}, os.path.join(here, name, "expected.safetensors"))
    os.remove(os.path.join(here, name, "README.md"))
