/**
 * js-pytorch on nested arrays. A whole step takes minutes, so it trains on 32 tokens and the time is scaled to all of them. Only its first
 * loss is compared: its cross-entropy has a wrong derivative. Run by peers.ts with PEERS_DIR: node js-pytorch.mjs WORK
 */
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";
import { reference } from "./node.mjs";
import { buildBatch, buildParams, causalMask, compete, model, rope, spec, work } from "./workload.mjs";

const start = performance.now();
const { torch } = createRequire(`${process.env.PEERS_DIR}/x.js`)("js-pytorch");
const importMs = performance.now() - start;

const { add, mul, matmul, transpose, reshape, mean, div, sqrt, exp } = torch;
const { layers, heads, dim, vocab, rmsEps } = model;
const size = dim / heads;
const scale = spec.lora.alpha / spec.lora.r;
const nested = (data, shape, at = { i: 0 }) =>
  Array.from({ length: shape[0] }, () => (shape.length === 1 ? data[at.i++] : nested(data, shape.slice(1), at)));
const tensor = (data, shape, trainable = false) => torch.tensor(nested(data, shape), trainable, "cpu");
const turned = (data, [r, c]) => Float32Array.from({ length: r * c }, (_, i) => data[(i % r) * c + Math.floor(i / r)]);
const softmax = new torch.nn.Softmax();
const rms = (h, eps = rmsEps) => div(h, sqrt(add(mean(mul(h, h), -1, true), eps)));

const operations = {
  matmul: (a, b, { turnA, turnB }) => matmul(turnA ? transpose(a, 0, 1) : a, turnB ? transpose(b, 0, 1) : b),
  softmax: (x) => softmax.forward(x, -1),
  rmsNorm: (x, w) => mul(rms(x, 1e-5), w),
};

function trainer() {
  const T = 32;
  const params = {};
  let table = [];
  for (const { name, shape, data, trainable } of buildParams()) {
    if (name === "embed") {
      table = nested(data, shape);
      params.head = tensor(turned(data, shape), [dim, vocab]);
    } else if (shape.length === 2) params[name] = tensor(turned(data, shape), [shape[1], shape[0]], trainable);
  }
  const { x, y } = buildBatch();
  const { cos, sin } = rope(T);
  // rotate_half as a product, since there is nothing to split and join with
  const half = new Float32Array(size * size);
  for (let i = 0; i < size / 2; i++) {
    half[(i + size / 2) * size + i] = -1;
    half[i * size + i + size / 2] = 1;
  }
  const [turn, c, s, mask] = [
    tensor(half, [size, size]),
    tensor(cos, [T, size]),
    tensor(sin, [T, size]),
    tensor(causalMask(T), [T, T]),
  ];
  const embedded = [Array.from({ length: T }, (_, t) => table[x[t]].slice())];
  const labels = torch.tensor([Array.from(y.slice(0, T))]);
  const crossEntropy = new torch.nn.CrossEntropyLoss();
  const linear = (name, h) => {
    const a = params[`${name}.lora_A`];
    const out = matmul(h, params[name]);
    return a ? add(out, mul(matmul(matmul(h, a), params[`${name}.lora_B`]), scale)) : out;
  };
  const silu = (gate) => div(gate, add(exp(mul(gate, -1)), 1));
  const forward = () => {
    let h = torch.tensor(embedded, false, "cpu");
    for (let layer = 0; layer < layers; layer++) {
      const at = `layers.${layer}.`;
      const normed = rms(h);
      const split = (name) => transpose(reshape(linear(at + name, normed), [1, T, heads, size]), 1, 2);
      const rotated = (q) => add(mul(q, c), mul(matmul(q, turn), s));
      const [q, k, v] = [rotated(split("q_proj")), rotated(split("k_proj")), split("v_proj")];
      const weights = softmax.forward(add(mul(matmul(q, transpose(k, 2, 3)), 1 / Math.sqrt(size)), mask), -1);
      h = add(h, linear(`${at}o_proj`, reshape(transpose(matmul(weights, v), 1, 2), [1, T, dim])));
      const again = rms(h);
      const gated = mul(silu(linear(`${at}gate_proj`, again)), linear(`${at}up_proj`, again));
      h = add(h, linear(`${at}down_proj`, gated));
    }
    return crossEntropy.forward(matmul(rms(h), params.head), labels);
  };
  const names = Object.keys(params).filter((name) => name.includes("lora"));
  const optimizer = new torch.optim.Adam(
    names.map((name) => params[name]),
    spec.optim.lr,
    0,
  );
  return {
    tokens: T,
    losses: reference.growth["first-32-tokens"],
    step() {
      const loss = forward();
      loss.backward();
      optimizer.step();
      optimizer.zero_grad();
      return loss.data[0];
    },
  };
}

await compete({
  importMs,
  operations,
  ...(work === "lora-step" && { trainer }),
  tensor,
  measured(f, tensors) {
    const call = () => f(...tensors);
    return { run: call, read: () => Float32Array.from(call().data.flatMap((row) => [...row])) };
  },
});
