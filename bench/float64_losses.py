"""The twenty losses of spec.json in float64, by PyTorch: what every float32 engine rounds. Writes expected-float64.json.

Usage: python bench/float64_losses.py   (needs torch and numpy; with --float32 it prints the losses in float32 instead)
"""
import json, math, pathlib, sys

import numpy as np
import torch
import torch.nn.functional as F

here = pathlib.Path(__file__).parent
spec = json.loads((here / "spec.json").read_text())
M, lora, optim = spec["model"], spec["lora"], spec["optim"]
torch.set_default_dtype(torch.float32 if "--float32" in sys.argv else torch.float64)
torch.set_num_threads(1)
heads, size = M["heads"], M["dim"] // M["heads"]


def uniform(name, count):
    """mulberry32 seeded by the FNV-1a hash of the name, as spec.json states."""
    low = np.uint64(0xFFFFFFFF)
    hash = 0x811C9DC5
    for byte in name.encode():
        hash = ((hash ^ byte) * 0x01000193) & 0xFFFFFFFF
    state = (np.uint64(hash) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x6D2B79F5)) & low
    t = ((state ^ (state >> np.uint64(15))) * (state | np.uint64(1))) & low
    t = ((t + (((t ^ (t >> np.uint64(7))) * (t | np.uint64(61))) & low)) & low) ^ t
    return ((t ^ (t >> np.uint64(14))) & low).astype(np.float64) / 2**32


def tensor(name, shape, std):
    values = (2 * uniform(name, math.prod(shape)) - 1) * (math.sqrt(3) * std)
    return torch.from_numpy(values.astype(np.float32).reshape(shape)).to(torch.get_default_dtype())


weights, adapters = {}, {}


def linear(name, out, into):
    weights[name] = tensor(name, (out, into), M["initStd"])
    if name.split(".")[-1] in lora["targets"]:
        adapters[name + ".lora_A"] = tensor(name + ".lora_A", (lora["r"], into), into**-0.5).requires_grad_()
        adapters[name + ".lora_B"] = torch.zeros(out, lora["r"]).requires_grad_()


linear("embed", M["vocab"], M["dim"])
for layer in range(M["layers"]):
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        linear(f"layers.{layer}.{name}", M["dim"], M["dim"])
    for name in ("gate_proj", "up_proj"):
        linear(f"layers.{layer}.{name}", M["ffn"], M["dim"])
    linear(f"layers.{layer}.down_proj", M["dim"], M["ffn"])

pair = np.arange(size) % (size // 2)
angles = np.arange(M["seq"])[:, None] / M["ropeTheta"] ** (2 * pair / size)
cos, sin = (torch.from_numpy(f(angles).astype(np.float32)).to(torch.get_default_dtype()) for f in (np.cos, np.sin))
mask = torch.full((M["seq"], M["seq"]), float("-inf")).triu(1)


def apply(name, x):
    y = F.linear(x, weights[name])
    A, B = adapters.get(name + ".lora_A"), adapters.get(name + ".lora_B")
    return y if A is None else y + lora["alpha"] / lora["r"] * F.linear(F.linear(x, A), B)


def norm(x):
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + M["rmsEps"])


def turn(x):
    half = size // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


def logits(ids):
    x = F.embedding(ids, weights["embed"])
    for layer in range(M["layers"]):
        p = f"layers.{layer}."
        h = norm(x)
        q, k, v = (apply(p + n, h).unflatten(-1, (heads, size)).transpose(1, 2) for n in ("q_proj", "k_proj", "v_proj"))
        scores = turn(q) @ turn(k).transpose(-1, -2) / math.sqrt(size) + mask
        x = x + apply(p + "o_proj", (torch.softmax(scores, -1) @ v).transpose(1, 2).flatten(-2))
        h = norm(x)
        x = x + apply(p + "down_proj", F.silu(apply(p + "gate_proj", h)) * apply(p + "up_proj", h))
    return F.linear(norm(x), weights["embed"])


tokens = np.floor(uniform("tokens", M["batch"] * (M["seq"] + 1)) * M["vocab"]).astype(np.int64)
tokens = torch.from_numpy(tokens).view(M["batch"], -1)
betas = (optim["beta1"], optim["beta2"])
adamw = torch.optim.AdamW(adapters.values(), optim["lr"], betas, optim["eps"], optim["weightDecay"])
losses = []
for _ in range(spec["train"]["steps"]):
    adamw.zero_grad()
    loss = F.cross_entropy(logits(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    adamw.step()
    losses.append(loss.item())

if "--float32" in sys.argv:
    print(json.dumps(losses))
else:
    (here / "expected-float64.json").write_text(json.dumps({"from": f"torch-{torch.__version__}", "losses": losses}, indent=1) + "\n")
