/**
 * TensorFlow.js. `tuned`: derivatives written by hand so that no product takes a transposed operand, which the wasm backend does slowly;
 * without it, what a user of it would write. Run by peers.ts with PEERS_DIR: node tfjs.mjs WORK backend=wasm|cpu [tuned=1], and in a page by
 * gpu.ts with backend=webgpu, or backend=webgl and webgl=2|1 for the version of WebGL
 */
import { load } from "./node.mjs";
import { buildBatch, buildParams, causalMask, compete, model, option, rope, spec } from "./workload.mjs";

const backend = option("backend", "wasm");
const tuned = option("tuned", "") === "1";
const start = performance.now();
const tf = await load("@tensorflow/tfjs"); // tfjs-core alone has no gradients registered in Node
if (backend === "wasm" || backend === "webgpu") await load(`@tensorflow/tfjs-backend-${backend}`);
const webgl = Number(option("webgl", 2));
if (backend === "webgl") tf.env().set("WEBGL_VERSION", webgl);
await tf.setBackend(backend);
await tf.ready();
if (backend === "webgl") checkWebGl();
const importMs = performance.now() - start;
const onCard = backend === "webgl" || backend === "webgpu";

/** tfjs falls back to what there is, and to 16 bits, without a word. */
function checkWebGl() {
  const { gl } = tf.backend().gpgpu;
  const [is1, is2] = [WebGLRenderingContext, WebGL2RenderingContext].map((kind) => gl instanceof kind);
  const isMeant = tf.getBackend() === "webgl" && (webgl === 1 ? is1 && !is2 : is2);
  if (!isMeant) throw new Error(`tfjs runs ${is2 ? "WebGL 2" : tf.getBackend()} and not WebGL ${webgl}`);
  for (const flag of ["WEBGL_RENDER_FLOAT32_ENABLED", "WEBGL_DOWNLOAD_FLOAT_ENABLED"])
    if (!tf.env().getBool(flag)) throw new Error(`tfjs has no ${flag} on WebGL ${webgl} here`);
}

const { layers, heads, dim, vocab, batch, seq, rmsEps } = model;
const size = dim / heads;
const scale = spec.lora.alpha / spec.lora.r;

const rms = (h, w, eps = rmsEps) => tf.mul(tf.mul(h, tf.rsqrt(tf.add(tf.mean(tf.mul(h, h), -1, true), eps))), w);
const operations = {
  matmul: (a, b, { turnA, turnB }) =>
    tuned ? tf.matMul(turnA ? tf.transpose(a) : a, turnB ? tf.transpose(b) : b) : tf.matMul(a, b, turnA, turnB),
  chain: (x) => tf.sub(tf.mul(tf.tanh(tf.add(tf.mul(x, 1.5), 0.3)), tf.sigmoid(x)), tf.mul(x, x)),
  softmax: (x) => tf.softmax(x),
  layerNorm: (x, w, b) => {
    const { mean, variance } = tf.moments(x, -1, true);
    return tf.add(tf.mul(tf.mul(tf.sub(x, mean), tf.rsqrt(tf.add(variance, 1e-5))), w), b);
  },
  rmsNorm: (x, w) => rms(x, w, 1e-5),
  attention: (q, k, v) => {
    const [B, T, H, D] = q.shape;
    const major = (x) => tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [B * H, T, D]);
    const scores = tuned ? tf.matMul(major(q), tf.transpose(major(k), [0, 2, 1])) : tf.matMul(major(q), major(k), false, true);
    const weights = tf.softmax(tf.add(tf.mul(scores, 1 / Math.sqrt(D)), tf.tensor(causalMask(T), [1, T, T])));
    return tf.transpose(tf.reshape(tf.matMul(weights, major(v)), [B, H, T, D]), [0, 2, 1, 3]);
  },
  embedding: (table, ids) => tf.gather(table, ids),
};

/** One element: the rest is done then, too. */
async function head(tensor) {
  const first = tf.tidy(() => tf.slice(tf.reshape(tensor, [-1]), [0], [1]));
  const data = await first.data();
  first.dispose();
  return data;
}

function trainer() {
  const [params, variables, turned] = [{}, {}, {}];
  for (const { name, shape, data, trainable } of buildParams()) {
    let tensor = tf.tensor(data, shape);
    if (name === "embed") params.head = tf.transpose(tensor);
    else if (shape.length === 2) {
      if (tuned && !trainable) turned[name] = tensor.clone();
      tensor = tf.transpose(tensor);
    }
    params[name] = trainable ? (variables[name] = tf.variable(tensor, true, name)) : tensor;
  }
  turned.head = params.embed;
  const { x, y } = buildBatch();
  const N = batch * seq;
  const ids = tf.tensor1d(x, "int32");
  const labels = tf.cast(tf.oneHot(tf.tensor1d(y, "int32"), vocab), "float32");
  const tables = rope();
  const [cos, sin] = [tables.cos, tables.sin].map((table) => tf.tensor(table, [1, seq, 1, size]));
  const mask = tf.tensor(causalMask(seq), [1, seq, seq]);
  const turn = (q) => {
    const [a, b] = tf.split(q, 2, 3);
    return tf.concat([tf.neg(b), a], 3);
  };
  const frozen = tuned
    ? (name, h) =>
        tf.customGrad((rows) => ({
          value: tf.matMul(rows, params[name]),
          gradFunc: (dy) => tf.matMul(dy, turned[name]),
        }))(h)
    : (name, h) => tf.matMul(h, params[name]);
  const flip = (a) => (a.rank === 3 ? tf.transpose(a, [0, 2, 1]) : tf.transpose(a));
  const product = tuned
    ? tf.customGrad((a, b, save) => {
        save([a, b]);
        return {
          value: tf.matMul(a, b),
          gradFunc: (dy, [left, right]) => [tf.matMul(dy, flip(right)), tf.matMul(flip(left), dy)],
        };
      })
    : (a, b) => tf.matMul(a, b);
  const linear = (name, h) => {
    const a = params[`${name}.lora_A`];
    const y = frozen(name, h);
    return a ? tf.add(y, tf.mul(product(product(h, a), params[`${name}.lora_B`]), scale)) : y;
  };
  const loss = () => {
    let h = tf.gather(params.embed, ids);
    for (let layer = 0; layer < layers; layer++) {
      const at = `layers.${layer}.`;
      const normed = rms(h, params[`${at}norm1`]);
      const major = (t) => tf.reshape(tf.transpose(t, [0, 2, 1, 3]), [batch * heads, seq, size]);
      const split = (name) => tf.reshape(linear(at + name, normed), [batch, seq, heads, size]);
      const rotated = (q) => tf.add(tf.mul(q, cos), tf.mul(turn(q), sin));
      const [q, k, v] = [major(rotated(split("q_proj"))), major(rotated(split("k_proj"))), major(split("v_proj"))];
      const scores = tuned ? product(q, flip(k)) : tf.matMul(q, k, false, true);
      const weights = tf.softmax(tf.add(tf.mul(scores, 1 / Math.sqrt(size)), mask));
      const mixed = tf.transpose(tf.reshape(product(weights, v), [batch, heads, seq, size]), [0, 2, 1, 3]);
      h = tf.add(h, linear(`${at}o_proj`, tf.reshape(mixed, [N, dim])));
      const again = rms(h, params[`${at}norm2`]);
      const gate = linear(`${at}gate_proj`, again);
      h = tf.add(h, linear(`${at}down_proj`, tf.mul(tf.mul(gate, tf.sigmoid(gate)), linear(`${at}up_proj`, again))));
    }
    return tf.neg(tf.mean(tf.sum(tf.mul(tf.logSoftmax(frozen("head", rms(h, params.norm))), labels), -1)));
  };
  const { lr, beta1, beta2, eps, weightDecay } = spec.optim;
  const names = Object.keys(variables);
  const moments = Object.fromEntries(names.map((name) => [name, [0, 1].map(() => tf.zerosLike(variables[name]))]));
  return {
    async step(i) {
      const { value, grads } = tf.variableGrads(loss, Object.values(variables));
      const [first, second] = [lr / (1 - beta1 ** (i + 1)), 1 / Math.sqrt(1 - beta2 ** (i + 1))];
      for (const name of names) {
        const g = grads[name];
        const [m, v] = moments[name];
        const [nextM, nextV, next] = tf.tidy(() => {
          const a = tf.add(tf.mul(m, beta1), tf.mul(g, 1 - beta1));
          const b = tf.add(tf.mul(v, beta2), tf.mul(tf.mul(g, g), 1 - beta2));
          const change = tf.mul(tf.div(a, tf.add(tf.mul(tf.sqrt(b), second), eps)), first);
          return [a, b, tf.sub(tf.mul(variables[name], 1 - lr * weightDecay), change)];
        });
        for (const old of [m, v, g]) old.dispose();
        moments[name] = [nextM, nextV];
        variables[name].assign(next);
        next.dispose();
      }
      await head(variables[names.at(-1)]);
      const [number] = await value.data();
      value.dispose();
      return number;
    },
  };
}

await compete({
  importMs,
  operations,
  trainer,
  tensor: (data, shape, dtype) => tf.tensor(data, shape, dtype),
  measured(f, tensors) {
    const call = () => tf.tidy(() => f(...tensors));
    let result;
    return {
      run() {
        result?.dispose();
        result = call();
        if (!onCard) result.dataSync();
      },
      read: () => call().data(),
      ...(onCard && { complete: () => head(result) }),
    };
  },
});
