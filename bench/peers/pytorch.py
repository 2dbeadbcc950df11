"""PyTorch on the CPU, or on a card with device=cuda, doing the work of workload.mjs. Run by peers.ts and gpu.ts: python pytorch.py WORK
threads=N [device=cuda] [--write-expected]

`--write-expected` (one thread) writes expected-growth.json: the first losses of the step and of its larger forms.
"""
import json
import math
import os
import resource
import sys
import time

start = time.perf_counter()
import numpy as np
import torch
import torch.nn.functional as F

import_ms = (time.perf_counter() - start) * 1e3
here = os.path.dirname(os.path.abspath(__file__))
words = [word for word in sys.argv[1:] if not word.startswith("--")]
options = dict(word.split("=", 1) for word in words if "=" in word)
work = words[0] if words and "=" not in words[0] else "lora-step"
seconds = float(options.get("seconds", 10))
torch.set_num_threads(int(options.get("threads", 1)))
device = torch.device(options.get("device", "cpu"))
torch.set_default_device(device)


def read(path):
    with open(os.path.join(here, path)) as file:
        return json.load(file)


GROWTH = {
    "lora-step": {},
    "lora-step-4x-tokens": {"batch": 4},
    "lora-step-4x-width": {"dim": 4, "ffn": 4, "heads": 4},
    "lora-step-2x-depth": {"layers": 2},
    "lora-step-small": {"layers": 1 / 6, "batch": 1 / 4, "vocab": 1 / 4},
}


def spec_of(work):
    spec = read("../spec.json")
    for key, factor in GROWTH.get(work, {}).items():
        spec["model"][key] = round(spec["model"][key] * factor)
    return spec


def say(**result):
    print(json.dumps(result), flush=True)


def now():
    return time.perf_counter()


def fnv1a(text):
    h = 0x811C9DC5
    for c in text.encode():
        h = ((h ^ c) * 0x01000193) & 0xFFFFFFFF
    return h


def uniform(name, n):
    low = np.uint64(0xFFFFFFFF)
    a = (np.uint64(fnv1a(name)) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x6D2B79F5)) & low
    times = lambda x, y: (x * y) & low
    t = times(a ^ (a >> np.uint64(15)), a | np.uint64(1))
    t = ((t + times(t ^ (t >> np.uint64(7)), t | np.uint64(61))) & low) ^ t
    return ((t ^ (t >> np.uint64(14))) & low).astype(np.float64) / 4294967296


def given(array):
    return torch.from_numpy(array).to(device)


def tensor(name, shape, std=1.0):
    u = uniform(name, int(np.prod(shape)))
    return given(((2 * u - 1) * (math.sqrt(3) * std)).astype(np.float32).reshape(shape))


def rotated_half(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), -1)


class Model:
    """The Llama of spec.json with LoRA on its projections."""

    def __init__(self, spec):
        self.spec, self.m = spec, spec["model"]
        m, r = self.m, spec["lora"]["r"]
        self.size = m["dim"] // m["heads"]
        self.scale = spec["lora"]["alpha"] / r
        d, f = m["dim"], m["ffn"]
        p = {"embed": tensor("embed", (m["vocab"], d), m["initStd"]), "norm": torch.ones(d)}
        for layer in range(m["layers"]):
            at = f"layers.{layer}."
            for target in spec["lora"]["targets"]:
                p[at + target] = tensor(at + target, (d, d), m["initStd"])
                p[at + target + ".lora_A"] = tensor(at + target + ".lora_A", (r, d), 1 / math.sqrt(d)).requires_grad_()
                p[at + target + ".lora_B"] = torch.zeros(d, r).requires_grad_()
            p[at + "gate_proj"] = tensor(at + "gate_proj", (f, d), m["initStd"])
            p[at + "up_proj"] = tensor(at + "up_proj", (f, d), m["initStd"])
            p[at + "down_proj"] = tensor(at + "down_proj", (d, f), m["initStd"])
            p[at + "norm1"] = p[at + "norm2"] = torch.ones(d)
        self.p = p
        i = np.arange(self.size) % (self.size // 2)
        angles = np.arange(512)[:, None] / m["ropeTheta"] ** (2 * i / self.size)
        self.cos = given(np.cos(angles).astype(np.float32))
        self.sin = given(np.sin(angles).astype(np.float32))

    def rms(self, x, weight):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + self.m["rmsEps"]) * weight

    def linear(self, name, x):
        y = F.linear(x, self.p[name])
        a = self.p.get(name + ".lora_A")
        return y if a is None else y + self.scale * F.linear(F.linear(x, a), self.p[name + ".lora_B"])

    def forward(self, ids, cache=None):
        B, T = ids.shape
        x = F.embedding(ids, self.p["embed"])
        at = cache[0][0].shape[2] if cache and cache[0] else 0
        cos, sin = self.cos[at : at + T], self.sin[at : at + T]
        for layer in range(self.m["layers"]):
            name = f"layers.{layer}."
            h = self.rms(x, self.p[name + "norm1"])
            q, k, v = (
                self.linear(name + n, h).view(B, T, self.m["heads"], self.size).transpose(1, 2) for n in ("q_proj", "k_proj", "v_proj")
            )
            q = q * cos + rotated_half(q) * sin
            k = k * cos + rotated_half(k) * sin
            if cache is not None:
                if cache[layer]:
                    k, v = torch.cat((cache[layer][0], k), 2), torch.cat((cache[layer][1], v), 2)
                cache[layer] = (k, v)
            o = F.scaled_dot_product_attention(q, k, v, is_causal=T > 1)
            x = x + self.linear(name + "o_proj", o.transpose(1, 2).reshape(B, T, -1))
            h = self.rms(x, self.p[name + "norm2"])
            x = x + F.linear(F.silu(F.linear(h, self.p[name + "gate_proj"])) * F.linear(h, self.p[name + "up_proj"]), self.p[name + "down_proj"])
        return F.linear(self.rms(x, self.p["norm"]), self.p["embed"])

    def trainer(self):
        m, o = self.m, self.spec["optim"]
        tokens = given(np.floor(uniform("tokens", m["batch"] * (m["seq"] + 1)) * m["vocab"]).astype(np.int64)).view(m["batch"], -1)
        x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        trained = [p for name, p in self.p.items() if "lora" in name]
        optimizer = torch.optim.AdamW(trained, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"], weight_decay=o["weightDecay"])

        def step():
            optimizer.zero_grad()
            loss = F.cross_entropy(self.forward(x).reshape(-1, m["vocab"]), y.reshape(-1))
            loss.backward()
            optimizer.step()
            return loss.item()

        return step

    @torch.no_grad()
    def generate(self):
        g, m = self.spec["generate"], self.m
        tokens = np.floor(uniform("tokens", m["batch"] * (m["seq"] + 1)) * m["vocab"]).astype(np.int64)
        ids = given(tokens[: g["prompt"]]).view(1, -1)
        cache, out = [()] * m["layers"], []
        for _ in range(g["newTokens"]):
            out.append(int(self.forward(ids, cache)[0, -1].argmax()))
            ids = torch.tensor([[out[-1]]])
        return out


def repeat(run, for_s, least=3, most=2000):
    times, begin = [], now()
    while len(times) < least or (now() - begin < for_s and len(times) < most):
        at = now()
        run()
        times.append((now() - at) * 1e3)
    return times


def problems():
    """Name, operation, right answer (in float64), work."""
    n = 1024
    a = tensor("a", (n, n))
    w, b = tensor("w", (n,)), tensor("b", (n,))
    rms = lambda x, weight: x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight

    def product(name, M, K, N, turn_a=False, turn_b=False):
        A = tensor("a", (K, M) if turn_a else (M, K))
        B = tensor("b", (N, K) if turn_b else (K, N))
        f = lambda x, y: (x.T if turn_a else x) @ (y.T if turn_b else y)
        return name, f, (A, B), 2 * M * K * N

    attention = lambda q, k, v: F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True
    ).transpose(1, 2)
    ids = given(np.floor(uniform("tokens", 512) * 2048).astype(np.int64))
    return {
        "matmul": [product(f"{size}³", size, size, size) for size in (256, 512, 1024)],
        "matmul-transposed": [
            product("512³, B transposed", 512, 512, 512, turn_b=True),
            product("256×512·512×256, A transposed", 256, 512, 256, turn_a=True),
        ],
        "matmul-skinny": [
            product("LoRA down 512×256·256×8", 512, 256, 8, turn_b=True),
            product("LoRA up 512×8·8×256", 512, 8, 256, turn_b=True),
        ],
        "elementwise": [("tanh(1.5x + 0.3)·σ(x) − x²", lambda x: torch.tanh(x * 1.5 + 0.3) * torch.sigmoid(x) - x * x, (a,), 0)],
        "softmax": [("rows of 1024", lambda x: torch.softmax(x, -1), (a,), 0)],
        "norm": [
            ("layer norm", lambda x, w, b: F.layer_norm(x, (n,), w, b, 1e-5), (a, w, b), 0),
            ("RMS norm", rms, (a, w), 0),
        ],
        "attention": [("causal, [4,128,8,32]", attention, [tensor(x, (4, 128, 8, 32)) for x in "qkv"], 4 * 4 * 8 * 128 * 128 * 32)],
        "embedding": [("512 of 2048 rows of 256", lambda table, ids: F.embedding(ids, table), (tensor("embed", (2048, 256)), ids), 0)],
    }


def micro():
    every = problems()[work]
    for name, f, inputs, flops in every:
        result = f(*inputs)
        exact = f(*(x.double() if x.is_floating_point() else x for x in inputs))
        error = ((result.double() - exact).abs().max() / exact.abs().max()).item()
        begin = now()
        while now() - begin < 0.1:
            f(*inputs)
        # as in workload.mjs: waiting for a card takes a time of its own, so as many are begun at once as make it small
        together = 1 if device.type == "cpu" else 50

        def run():
            for _ in range(together):
                f(*inputs)
            if device.type == "cuda":
                torch.cuda.synchronize()

        run()
        times = [ms / together for ms in repeat(run, seconds / len(every))]
        say(case=name, **({"flops": flops} if flops else {}), elements=result.numel(), ms=float(np.median(times)), bestMs=min(times), runs=len(times), error=error)


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def warm_up_of(times, milliseconds):
    """As in workload.mjs: how many of the first steps to leave out."""
    count, spent = 0, 0.0
    while count < 6 and count < len(times) - 1 and spent < milliseconds:
        spent += times[count]
        count += 1
    return count


def train():
    spec = spec_of(work)
    step = Model(spec).trainer()
    losses, times = [], []
    begin = now()
    while len(losses) < int(options.get("steps", spec["train"]["steps"])) and (len(losses) < int(options.get("least", 3)) or now() - begin < seconds):
        at = now()
        losses.append(step())
        times.append((now() - at) * 1e3)
    expected = read("expected-growth.json").get(work) or read("../expected.json")["train"]["losses"]
    steady = times[warm_up_of(times, seconds * 500) :]
    error = max(abs(a - b) for a, b in zip(losses, expected))
    say(case="train", ms=float(np.median(steady)), bestMs=min(steady), firstStepMs=times[0], importAndFirstStepMs=import_ms + times[0], runs=len(steady), losses=losses, error=error, peakBytes=peak_bytes())


def generate():
    model = Model(spec_of(work))
    tokens = model.generate()
    model.generate()
    times = repeat(model.generate, seconds, least=2)
    right = read("../expected.json")["generate"]["tokens"]
    wrong = sum(a != b for a, b in zip(tokens, right))
    say(case="generate", ms=float(np.median(times)), bestMs=min(times), runs=len(times), tokens=len(tokens), error=wrong / len(tokens), peakBytes=peak_bytes())


def write_expected():
    losses = {}
    for name in GROWTH:
        if name == "lora-step":
            continue
        step = Model(spec_of(name)).trainer()
        losses[name] = [step() for _ in range(3)]
    # js-pytorch trains on the first 32 tokens of the first row only
    model, vocab = Model(spec_of("lora-step")), spec_of("lora-step")["model"]["vocab"]
    tokens = given(np.floor(uniform("tokens", model.m["batch"] * (model.m["seq"] + 1)) * vocab).astype(np.int64))
    with torch.no_grad():
        logits = model.forward(tokens[:32].view(1, -1))[0]
        losses["first-32-tokens"] = [F.cross_entropy(logits, tokens[1:33]).item()]
    with open(os.path.join(here, "expected-growth.json"), "w") as file:
        json.dump(losses, file, indent=2)
        file.write("\n")


if "--write-expected" in sys.argv:
    write_expected()
elif work in GROWTH:
    train()
elif work == "generate":
    generate()
else:
    micro()
