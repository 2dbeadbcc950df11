/**
 * jax-js on its wasm device, or another. `threads=2` gives it a Worker, which Node has under another name: a shim, not something that it
 * ships. Run by peers.ts with PEERS_DIR: node [--experimental-wasm-relaxed-simd] jax.mjs WORK [threads=N], and in a page by gpu.ts with
 * device=webgpu
 */
import { load } from "./node.mjs";
import { buildBatch, buildParams, causalMask, compete, model, option, rope, spec } from "./workload.mjs";

const device = option("device", "wasm");
const threads = Number(option("threads", 1));
if (threads > 1) (await import("./node-workers.mjs")).provideWorkers(threads);
const start = performance.now();
const jax = await load("@jax-js/jax");
const usable = await jax.init(device);
if (!usable.includes(device)) throw new Error(`jax-js has no ${device} here`);
jax.defaultDevice(device);
const importMs = performance.now() - start;

const { numpy: np, nn } = jax;
const { layers, heads, dim, vocab, batch, seq, rmsEps } = model;
const size = dim / heads;
const scale = spec.lora.alpha / spec.lora.r;
const array = (data, shape) => np.array(data).reshape(shape);

const rms = (h, w, eps = rmsEps) => {
  const square = h.ref.mul(h.ref).mean(-1, { keepdims: true }).add(eps);
  return h.mul(np.reciprocal(np.sqrt(square))).mul(w);
};
const attend = (q, k, v, mask) =>
  np.matmul(
    nn.softmax(
      np
        .matmul(q, k.transpose([0, 1, 3, 2]))
        .mul(1 / Math.sqrt(size))
        .add(mask),
      -1,
    ),
    v,
  );
const operations = {
  matmul: (a, b, { turnA, turnB }) => np.matmul(turnA ? a.transpose() : a, turnB ? b.transpose() : b),
  chain: (x) => np.tanh(x.ref.mul(1.5).add(0.3)).mul(nn.sigmoid(x.ref)).sub(x.ref.mul(x)),
  softmax: (x) => nn.softmax(x, -1),
  layerNorm: (x, w, b) => {
    const centred = x.ref.sub(x.mean(-1, { keepdims: true }));
    const variance = centred.ref.mul(centred.ref).mean(-1, { keepdims: true });
    return centred
      .mul(np.reciprocal(np.sqrt(variance.add(1e-5))))
      .mul(w)
      .add(b);
  },
  rmsNorm: (x, w) => rms(x, w, 1e-5),
  attention: (q, k, v) => {
    const major = (x) => x.transpose([0, 2, 1, 3]);
    return attend(major(q), major(k), major(v), array(causalMask(128), [1, 1, 128, 128])).transpose([0, 2, 1, 3]);
  },
  embedding: (table, ids) => np.take(table, ids, 0),
};

const linear = (base, lora, name, h) => {
  const a = lora[`${name}.lora_A`];
  if (!a) return np.matmul(h, base[name].ref.transpose());
  const delta = np.matmul(np.matmul(h.ref, a.ref.transpose()), lora[`${name}.lora_B`].ref.transpose());
  return np.matmul(h, base[name].ref.transpose()).add(delta.mul(scale));
};
const turn = (q) => {
  const [a, b] = np.split(q, 2, -1);
  return np.concatenate([b.neg(), a], -1);
};

/** h: [B·T, dim]; `cached(layer, k, v)` lets the generator put its cache in; k, v: [B, heads, S, size]. */
function decoder(base, lora, h, B, T, cos, sin, mask, cached = (_, k, v) => [k, v]) {
  for (let layer = 0; layer < layers; layer++) {
    const at = `layers.${layer}.`;
    const normed = rms(h.ref, base[`${at}norm1`].ref);
    const split = (name, x) =>
      linear(base, lora, at + name, x)
        .reshape([B, T, heads, size])
        .transpose([0, 2, 1, 3]);
    const turned = (q) => q.ref.mul(cos.ref).add(turn(q).mul(sin.ref));
    const q = turned(split("q_proj", normed.ref));
    const [k, v] = cached(layer, turned(split("k_proj", normed.ref)), split("v_proj", normed));
    const mixed = attend(q, k, v, mask.ref)
      .transpose([0, 2, 1, 3])
      .reshape([B * T, dim]);
    h = h.add(linear(base, lora, `${at}o_proj`, mixed));
    const again = rms(h.ref, base[`${at}norm2`].ref);
    const gate = nn.silu(linear(base, lora, `${at}gate_proj`, again.ref));
    h = h.add(linear(base, lora, `${at}down_proj`, gate.mul(linear(base, lora, `${at}up_proj`, again))));
  }
  return np.matmul(rms(h, base.norm.ref), base.embed.ref.transpose());
}

function params() {
  const [base, lora] = [{}, {}];
  for (const { name, shape, data, trainable } of buildParams()) (trainable ? lora : base)[name] = array(data, shape);
  return { base, lora };
}

function trainer() {
  const { base, lora } = params();
  const { x, y } = buildBatch();
  const { cos, sin } = rope();
  const fixed = {
    ids: np.array(x),
    labels: np.array(y),
    cos: array(cos, [1, 1, seq, size]),
    sin: array(sin, [1, 1, seq, size]),
    mask: array(causalMask(seq), [1, 1, seq, seq]),
  };
  const loss = (adapter, weights, { ids, labels, ...tables }) => {
    const embedded = np.take(weights.embed.ref, ids.ref, 0);
    const logits = decoder(weights, adapter, embedded, batch, seq, tables.cos, tables.sin, tables.mask);
    const right = nn.oneHot(labels.ref, vocab);
    return nn
      .logSoftmax(logits, -1)
      .mul(right)
      .sum()
      .mul(-1 / (batch * seq));
  };
  const { lr, beta1, beta2, eps, weightDecay } = spec.optim;
  const names = Object.keys(lora);
  const zeros = () => Object.fromEntries(names.map((name) => [name, np.zeros(lora[name].shape)]));
  const lossAndGradients = jax.valueAndGrad(loss);
  const update = jax.jit((adapter, m, v, corrections, weights, tables) => {
    const [value, gradients] = lossAndGradients(jax.tree.ref(adapter), weights, tables);
    const [nextAdapter, nextM, nextV] = [{}, {}, {}];
    for (const name of names) {
      const g = gradients[name];
      nextM[name] = m[name].mul(beta1).add(g.ref.mul(1 - beta1));
      nextV[name] = v[name].mul(beta2).add(g.ref.mul(g).mul(1 - beta2));
      const width = np.sqrt(nextV[name].ref).mul(corrections.second.ref).add(eps);
      nextAdapter[name] = adapter[name].mul(1 - lr * weightDecay).sub(nextM[name].ref.mul(corrections.first.ref).div(width));
    }
    return [value, nextAdapter, nextM, nextV];
  });
  let [adapter, m, v] = [lora, zeros(), zeros()];
  return {
    async step(i) {
      const first = np.array(lr / (1 - beta1 ** (i + 1)));
      const second = np.array(1 / Math.sqrt(1 - beta2 ** (i + 1)));
      let value;
      [value, adapter, m, v] = update(adapter, m, v, { first, second }, jax.tree.ref(base), jax.tree.ref(fixed));
      const [number] = await value.data();
      await jax.blockUntilReady(jax.tree.ref(adapter));
      return number;
    },
  };
}

/** Fixed shapes for the compiler: a cache of fixed length, written with a one-hot mask. */
function generator() {
  const { base, lora } = params();
  const { prompt, newTokens } = spec.generate;
  const length = prompt + newTokens;
  const { cos, sin } = rope();
  const { x } = buildBatch();
  const prefill = jax.jit((weights, adapter, ids, c, s, mask) => {
    const [keys, values] = [[], []];
    const logits = decoder(weights, adapter, np.take(weights.embed.ref, ids, 0), 1, prompt, c, s, mask, (_, k, v) => {
      keys.push(k.ref);
      values.push(v.ref);
      return [k, v];
    });
    return [np.argmax(logits, -1), keys, values];
  });
  const decode = jax.jit((weights, adapter, id, c, s, mask, here, keys, values) => {
    const [nextKeys, nextValues] = [[], []];
    const others = here.ref.mul(-1).add(1);
    const logits = decoder(weights, adapter, np.take(weights.embed.ref, id, 0), 1, 1, c, s, mask, (layer, k, v) => {
      const key = keys[layer].mul(others.ref).add(k.mul(here.ref));
      const value = values[layer].mul(others.ref).add(v.mul(here.ref));
      nextKeys.push(key.ref);
      nextValues.push(value.ref);
      return [key, value];
    });
    return [np.argmax(logits, -1), nextKeys, nextValues];
  });
  const row = (table, at) => array(table.slice(at * size, (at + 1) * size), [1, 1, 1, size]);
  const flags = (f, shape) =>
    array(
      Float32Array.from({ length }, (_, i) => f(i)),
      shape,
    );
  return async () => {
    const all = (table) => array(table.slice(0, prompt * size), [1, 1, prompt, size]);
    const mask = array(causalMask(prompt), [1, 1, prompt, prompt]);
    let [next, keys, values] = prefill(
      jax.tree.ref(base),
      jax.tree.ref(lora),
      np.array(x.slice(0, prompt)),
      all(cos),
      all(sin),
      mask,
    );
    const tokens = [(await next.data())[prompt - 1]];
    const lengthen = (list) => list.map((a) => np.pad(a, [[0, 0], [0, 0], [0, length - prompt], [0, 0]])); // biome-ignore format: one shape
    [keys, values] = [lengthen(keys), lengthen(values)];
    for (let at = prompt; tokens.length < newTokens; at++) {
      [next, keys, values] = decode(
        jax.tree.ref(base),
        jax.tree.ref(lora),
        np.array(Int32Array.of(tokens.at(-1))),
        row(cos, at),
        row(sin, at),
        flags((i) => (i > at ? -1e9 : 0), [1, 1, 1, length]),
        flags((i) => Number(i === at), [1, 1, length, 1]),
        keys,
        values,
      );
      tokens.push((await next.data())[0]);
    }
    jax.tree.dispose(keys);
    jax.tree.dispose(values);
    return tokens;
  };
}

await compete({
  importMs,
  operations,
  trainer,
  generator,
  tensor: array,
  measured(f, tensors) {
    const compiled = jax.jit(f);
    const call = () => compiled(...tensors.map((tensor) => tensor.ref));
    // what is disposed of before somebody waits for it is never computed
    const waiting = [];
    return {
      async run() {
        const done = jax.blockUntilReady(call()).then((result) => result.dispose());
        if (device === "wasm") await done;
        else waiting.push(done);
      },
      read: () => call().data(),
      ...(device !== "wasm" && { complete: () => Promise.all(waiting.splice(0)) }),
    };
  },
});
