/**
 * The work that every engine does in `npm run bench -- peers` and `-- gpu`: the same numbers, the same checks, the same clock. An engine's
 * script calls `compete` with what it can do; each run of a script does one piece of work and prints one line of JSON for each result.
 */
import { finish, now, peakMemory, reference, say, spec, words } from "./node.mjs";

/** How the step of spec.json grows. */
const growth = {
  "lora-step": {},
  "lora-step-4x-tokens": { batch: 4 },
  "lora-step-4x-width": { dim: 4, ffn: 4, heads: 4 },
  "lora-step-2x-depth": { layers: 2 },
  "lora-step-small": { layers: 1 / 6, batch: 1 / 4, vocab: 1 / 4 },
};

const [work = "lora-step", ...options] = words;
const option = (name, otherwise) => options.find((text) => text.startsWith(`${name}=`))?.slice(name.length + 1) ?? otherwise;

export { option, spec, work };

/** Seconds of measuring, about; a piece of work that takes longer is done once. */
const seconds = Number(option("seconds", 10));

for (const [key, factor] of Object.entries(growth[work] ?? {})) spec.model[key] = Math.round(spec.model[key] * factor);
export const model = spec.model;

function fnv1a(text) {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193) >>> 0;
  return hash;
}

/** mulberry32, seeded by the tensor's name: values in [0, 1). */
export function uniform(name, count) {
  const values = new Float64Array(count);
  let state = fnv1a(name);
  for (let i = 0; i < count; i++) {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    values[i] = ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }
  return values;
}

export function values(name, count, std) {
  const scale = Math.sqrt(3) * std;
  return Float32Array.from(uniform(name, count), (u) => (2 * u - 1) * scale);
}

const product = (shape) => shape.reduce((size, extent) => size * extent, 1);

/** The model's weights and the adapter's, as `{ name, shape, data, trainable }` in a fixed order; linear weights are [out, in]. */
export function buildParams() {
  const { vocab, dim, layers, ffn, initStd } = model;
  const { r, targets } = spec.lora;
  const params = [];
  const add = (name, shape, std, trainable = false) =>
    params.push({
      name,
      shape,
      data: std === 0 ? new Float32Array(product(shape)) : values(name, product(shape), std),
      trainable,
    });
  const norm = (name) => params.push({ name, shape: [dim], data: new Float32Array(dim).fill(1), trainable: false });
  add("embed", [vocab, dim], initStd);
  for (let layer = 0; layer < layers; layer++) {
    const at = `layers.${layer}.`;
    for (const target of targets) {
      add(`${at}${target}`, [dim, dim], initStd);
      add(`${at}${target}.lora_A`, [r, dim], 1 / Math.sqrt(dim), true);
      add(`${at}${target}.lora_B`, [dim, r], 0, true);
    }
    add(`${at}gate_proj`, [ffn, dim], initStd);
    add(`${at}up_proj`, [ffn, dim], initStd);
    add(`${at}down_proj`, [dim, ffn], initStd);
    norm(`${at}norm1`);
    norm(`${at}norm2`);
  }
  norm("norm");
  return params;
}

/** Token ids x and their successors y, [batch, seq]. */
export function buildBatch() {
  const { batch, seq, vocab } = model;
  const u = uniform("tokens", batch * (seq + 1));
  const ids = (shift) =>
    Int32Array.from({ length: batch * seq }, (_, i) =>
      Math.floor(u[Math.floor(i / seq) * (seq + 1) + (i % seq) + shift] * vocab),
    );
  return { x: ids(0), y: ids(1) };
}

/** Tables of cos and sin, [length, size of a head], both halves equal. */
export function rope(length = model.seq) {
  const size = model.dim / model.heads;
  const table = (f) =>
    Float32Array.from({ length: length * size }, (_, at) => {
      const [t, i] = [Math.floor(at / size), at % size];
      return f(t / model.ropeTheta ** ((2 * (i % (size / 2))) / size));
    });
  return { cos: table(Math.cos), sin: table(Math.sin) };
}

/** 0 where a token may look, −10⁹ where not, [length, length]. */
export const causalMask = (length) =>
  Float32Array.from({ length: length * length }, (_, i) => (i % length > Math.floor(i / length) ? -1e9 : 0));

const at2 = (x, columns, turned, rows) => (turned ? (i, j) => x[j * rows + i] : (i, j) => x[i * columns + j]);

function matmulProblem(name, M, K, N, { turnA = false, turnB = false } = {}) {
  return {
    name,
    operation: "matmul",
    inputs: [
      { name: "a", shape: turnA ? [K, M] : [M, K] },
      { name: "b", shape: turnB ? [N, K] : [K, N] },
    ],
    attributes: { turnA, turnB },
    flops: 2 * M * K * N,
    size: M * N,
    expect([a, b]) {
      const [A, B] = [at2(a, K, turnA, M), at2(b, N, turnB, K)];
      return (index) => {
        const [i, j] = [Math.floor(index / N), index % N];
        let sum = 0;
        for (let k = 0; k < K; k++) sum += A(i, k) * B(k, j);
        return sum;
      };
    },
  };
}

const n = spec.elementwise.n;
const rowwise = (name, operation, inputs, expectRow, length = n) => ({
  name,
  operation,
  inputs: [{ name: "a", shape: [length, length] }, ...inputs],
  size: length * length,
  expect:
    ([x, ...rest]) =>
    (index) => {
      const row = Math.floor(index / length);
      return expectRow(Float64Array.from(x.subarray(length * row, length * (row + 1))), index % length, rest);
    },
});
const softmaxOf = (row, j) => Math.exp(row[j]) / row.reduce((sum, value) => sum + Math.exp(value), 0);
const mean = (row, f) => row.reduce((sum, value) => sum + f(value), 0) / row.length;

/** Of each piece of work, the problems in it. `expect` gives the right value at an index, in float64. */
export const problems = {
  matmul: spec.matmul.map((size) => matmulProblem(`${size}³`, size, size, size)),
  "matmul-transposed": [
    matmulProblem("512³, B transposed", 512, 512, 512, { turnB: true }),
    matmulProblem("256×512·512×256, A transposed", 256, 512, 256, { turnA: true }),
  ],
  "matmul-skinny": [
    matmulProblem("LoRA down 512×256·256×8", 512, 256, 8, { turnB: true }),
    matmulProblem("LoRA up 512×8·8×256", 512, 8, 256, { turnB: true }),
  ],
  elementwise: [
    {
      name: "tanh(1.5x + 0.3)·σ(x) − x²",
      operation: "chain",
      inputs: [{ name: "a", shape: [n, n] }],
      size: n * n,
      expect:
        ([x]) =>
        (i) =>
          Math.tanh(x[i] * 1.5 + 0.3) / (1 + Math.exp(-x[i])) - x[i] * x[i],
    },
  ],
  softmax: [rowwise("rows of 1024", "softmax", [], softmaxOf), rowwise("256 rows of 256", "softmax", [], softmaxOf, 256)],
  norm: [
    rowwise(
      "layer norm",
      "layerNorm",
      [
        { name: "w", shape: [n] },
        { name: "b", shape: [n] },
      ],
      (row, j, [w, b]) => {
        const middle = mean(row, (value) => value);
        const variance = mean(row, (value) => (value - middle) ** 2);
        return ((row[j] - middle) / Math.sqrt(variance + 1e-5)) * w[j] + b[j];
      },
    ),
    rowwise(
      "RMS norm",
      "rmsNorm",
      [{ name: "w", shape: [n] }],
      (row, j, [w]) => (row[j] / Math.sqrt(mean(row, (value) => value * value) + 1e-5)) * w[j],
    ),
  ],
  attention: [attentionProblem(4, 128, 8, 32)],
  embedding: [
    {
      name: "512 of 2048 rows of 256",
      operation: "embedding",
      inputs: [
        { name: "embed", shape: [2048, 256] },
        { name: "tokens", shape: [512], integers: 2048 },
      ],
      size: 512 * 256,
      expect:
        ([table, ids]) =>
        (i) =>
          table[ids[Math.floor(i / 256)] * 256 + (i % 256)],
    },
  ],
};

/** q, k, v and the result are [batch, time, heads, size]. */
function attentionProblem(B, T, H, D) {
  const shape = [B, T, H, D];
  return {
    name: `causal, [${shape}]`,
    operation: "attention",
    inputs: ["q", "k", "v"].map((name) => ({ name, shape })),
    flops: 4 * B * H * T * T * D,
    size: product(shape),
    expect([q, k, v]) {
      const row = (x, b, t, h) => x.subarray(((b * T + t) * H + h) * D, ((b * T + t) * H + h + 1) * D);
      return (index) => {
        const [b, t, h, d] = [
          Math.floor(index / (T * H * D)),
          Math.floor(index / (H * D)) % T,
          Math.floor(index / D) % H,
          index % D,
        ];
        const query = row(q, b, t, h);
        const weights = Array.from({ length: t + 1 }, (_, s) =>
          Math.exp(row(k, b, s, h).reduce((sum, value, i) => sum + value * query[i], 0) / Math.sqrt(D)),
        );
        const total = weights.reduce((sum, weight) => sum + weight, 0);
        return weights.reduce((sum, weight, s) => sum + (weight / total) * row(v, b, s, h)[d], 0);
      };
    },
  };
}

export const inputOf = ({ name, shape, integers }) =>
  integers ? Int32Array.from(uniform(name, product(shape)), (u) => Math.floor(u * integers)) : values(name, product(shape), 1);

export const median = (list) => {
  const sorted = [...list].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

/** The largest distance from the right values, over 997 places spread across the result, relative to the largest of them. */
export function errorOf(problem, inputs, result) {
  if (result.length !== problem.size) throw new Error(`${result.length} values instead of ${problem.size}`);
  const expect = problem.expect(inputs);
  let [worst, largest] = [0, 0];
  for (let i = 0; i < 997; i++) {
    const index = Math.floor((i * (problem.size - 1)) / 996);
    const right = expect(index);
    worst = Math.max(worst, Math.abs(right - result[index]));
    largest = Math.max(largest, Math.abs(right));
  }
  return Number.isFinite(worst) ? worst / Math.max(largest, 1e-30) : Number.POSITIVE_INFINITY;
}

async function repeat(run, { forMs, least = 3, most = 2000 }) {
  const times = [];
  const start = performance.now();
  while (times.length < least || (performance.now() - start < forMs && times.length < most)) {
    const from = await now();
    await run();
    times.push((await now()) - from);
  }
  return times;
}

async function micro(engine) {
  for (const problem of problems[work]) {
    const operation = engine.operations?.[problem.operation];
    if (!operation || !problem.name.startsWith(option("case", ""))) continue;
    const label = { case: problem.name, ...(problem.flops && { flops: problem.flops }), elements: problem.size };
    try {
      const inputs = problem.inputs.map(inputOf);
      const tensors = problem.inputs.map(({ shape, integers }, i) =>
        engine.tensor(inputs[i], shape, integers ? "int32" : "float32"),
      );
      const { run, read, complete } = engine.measured((...x) => operation(...x, problem.attributes), tensors);
      const error = errorOf(problem, inputs, await read());
      // waiting for a graphics card takes a time of its own: as many at once as make it small
      let together = 1;
      const once = async () => {
        for (let i = 0; i < together; i++) await run();
        await complete?.();
      };
      const forMs = (seconds * 1000) / problems[work].length;
      const warm = performance.now();
      let times = await repeat(once, { forMs: 100, least: 1 });
      // what takes longer than all the time there is was done twice by now, and has taken its time
      if (performance.now() - warm < forMs) {
        const start = performance.now();
        await once();
        if (complete) together = Math.min(50, Math.ceil(200 / (performance.now() - start)));
        times = await repeat(once, { forMs });
      }
      const [ms, bestMs] = [median(times), Math.min(...times)].map((time) => time / together);
      say({ ...label, ms, bestMs, runs: times.length * together, error });
    } catch (error) {
      say({ ...label, failed: String(error?.stack ?? error).slice(0, 300) });
    }
  }
}

/** Engines of machine code compile again what runs often: so many steps, or so many seconds of them, do not count. */
const warmSteps = 6;

/** How many of the first steps to leave out: all that warm up, but never so many that nothing is left. */
export function warmUpOf(times, milliseconds) {
  let [count, spent] = [0, 0];
  while (count < warmSteps && count < times.length - 1 && spent < milliseconds) spent += times[count++];
  return count;
}

/** Steps until the time is up, or so many were made (`steps=N`); their losses are compared with PyTorch's. */
async function train(engine) {
  const { step, tokens = model.batch * model.seq, losses: right = reference.growth[work], planRatio } = await engine.trainer();
  const expected = right ?? reference.train.losses;
  const [losses, times, compilations] = [[], [], []];
  const least = Number(option("least", 3));
  const most = Number(option("steps", work === "lora-step" ? spec.train.steps : 6 + 3));
  const start = performance.now();
  while (losses.length < most && (losses.length < least || performance.now() - start < seconds * 1000)) {
    const from = await now();
    losses.push(await step(losses.length));
    times.push((await now()) - from);
    compilations.push(engine.compilations?.());
  }
  const peakBytes = peakMemory();
  const steady = times.slice(warmUpOf(times, (seconds * 1000) / 2));
  const error = expected
    .slice(0, losses.length)
    .reduce((most, loss, i) => Math.max(most, Math.abs(losses[i] - loss)), expected.length ? 0 : Number.NaN);
  const scale = (model.batch * model.seq) / tokens;
  say({
    case: "train",
    ms: median(steady) * scale,
    bestMs: Math.min(...steady) * scale,
    firstStepMs: times[0] * scale,
    // as far as it can be told apart from making the weights, which every engine is given
    importAndFirstStepMs: engine.importMs + times[0] * scale,
    runs: steady.length,
    losses,
    error: Number.isFinite(error) ? error : 1e30,
    peakBytes,
    compilations: compilations.at(-1),
    // the first step is to compile everything
    lateCompilations: compilations.at(-1) - compilations[0] || undefined,
    planRatio: await planRatio?.(),
    ...(scale !== 1 && { scaledFrom: tokens }),
  });
}

/** Greedy tokens after a prompt, with a cache. */
async function generate(engine) {
  const write = await engine.generator();
  const first = await write();
  await write(); // the first two run code that has not been compiled for good
  const times = await repeat(write, { forMs: seconds * 1000, least: 2 });
  const { tokens } = reference.generate;
  const wrong = first.filter((token, i) => token !== tokens[i]).length;
  const { newTokens } = spec.generate;
  say({
    case: "generate",
    ms: median(times),
    bestMs: Math.min(...times),
    runs: times.length,
    tokens: newTokens,
    error: wrong / newTokens,
    peakBytes: peakMemory(),
  });
}

/**
 * Does the work that the command line names, and prints its results.
 *
 * An engine has: `importMs`; `tensor(data, shape, dtype)`, `measured(f, tensors)` giving `{ run, read }`, and `complete` where `run` only
 * begins the work, and `operations` by name;
 * `trainer()` giving `{ step(i) → loss }`, and `planRatio()` where the engine plans its memory; `generator()` giving a function that returns the new token ids. It may leave out what it cannot.
 */
export async function compete(engine) {
  try {
    if (work in problems) await micro(engine);
    else if (work in growth && engine.trainer) await train(engine);
    else if (work === "generate" && engine.generator) await generate(engine);
  } catch (error) {
    say({ case: work, failed: String(error?.stack ?? error).slice(0, 400) });
  }
  finish();
}
