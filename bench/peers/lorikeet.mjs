/**
 * lorikeet itself, through its entry points, as somebody would write it who installed the package. Run by peers.ts:
 * node lorikeet.mjs WORK [threads=N], and in a page by gpu.ts with mode=MODE of its gpu device
 */
import { collectGarbage, entry } from "./node.mjs";
import { buildBatch, buildParams, compete, model, option, spec, work } from "./workload.mjs";

const start = performance.now();
const lorikeet = await entry("");
const mode = option("mode", "");
const device = mode ? await lorikeet.devices.gpu({ mode }) : lorikeet.devices.wasm({ threads: Number(option("threads", 2)) });
lorikeet.useDevice(device);
const isModel = work.startsWith("lora-step") || work === "generate";
const [{ LlamaForCausalLM }, { attach, lora }, { AdamW, gradientsOf }, { complete }] = isModel
  ? await Promise.all(["models", "peft", "optim", "train"].map(entry))
  : [{}, {}, {}, {}];
const nn = isModel ? {} : await entry("nn");
const importMs = performance.now() - start;

const { attention, compile, fromTypedArray, matmul, softmax, Variable } = lorikeet;
const operations = {
  matmul: (a, b, { turnA, turnB }) => matmul(turnA ? a.transpose() : a, turnB ? b.transpose() : b),
  chain: (x) => x.mul(1.5).add(0.3).tanh().mul(x.sigmoid()).sub(x.mul(x)),
  softmax: (x) => softmax(x),
  layerNorm: (x, w, b) => nn.layerNorm(x, w, b),
  rmsNorm: (x, w) => nn.rmsNorm(x, w, { eps: 1e-5 }),
  attention: (q, k, v) => attention(q, k, v, { isCausal: true }),
  embedding: (table, ids) => nn.embedding(table, ids),
};

function build() {
  const { vocab, dim, layers, heads, ffn, seq, ropeTheta, rmsEps } = model;
  const llama = new LlamaForCausalLM({
    model_type: "llama",
    vocab_size: vocab,
    hidden_size: dim,
    intermediate_size: ffn,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: heads,
    max_position_embeddings: seq,
    rms_norm_eps: rmsEps,
    rope_theta: ropeTheta,
    tie_word_embeddings: true,
  });
  attach(llama, lora({ r: spec.lora.r, loraAlpha: spec.lora.alpha, targetModules: [...spec.lora.targets] }));
  const given = new Map(buildParams().map(({ name, data }) => [name, data]));
  for (const [path, parameter] of llama.namedParameters()) {
    const [, layer, rest] = /layers\.(\d+)\.\w+\.(.+)$/.exec(path) ?? [];
    const name = path.includes("embed_tokens")
      ? "embed"
      : rest && `layers.${layer}.${rest.replace(/(\.(base_layer|default|weight))+/g, "")}`;
    const data = given.get(name);
    if (data) {
      const values = fromTypedArray(data, parameter.shape);
      parameter.assign(values);
      values.dispose();
      given.delete(name);
    } else if (!path.includes("norm")) throw new Error(`${path} was given no values`);
  }
  return llama;
}

function trainer() {
  const llama = build();
  llama.train();
  const parameters =
    llama.trainableParameters?.() ?? [...llama.namedParameters()].map(([, p]) => p).filter((p) => p.requiresGrad);
  const { lr, beta1, beta2, eps, weightDecay } = spec.optim;
  const optimizer = new AdamW(parameters, { lr, betas: [beta1, beta2], eps, weightDecay });
  const update = compile((inputIds, targets) => {
    const { loss } = llama.forward({ inputIds, targets });
    optimizer.step(gradientsOf(loss, parameters));
    return loss;
  });
  const { x, y } = buildBatch();
  const [ids, targets] = [x, y].map((list) => fromTypedArray(list, [model.batch, model.seq]));
  return {
    async step() {
      const loss = update(ids, targets);
      const [value] = await loss.data();
      loss.dispose();
      return value;
    },
    /** Device memory while it trains, over what the plan says: weights, moments, batch, and the program's own. */
    async planRatio() {
      if (!collectGarbage) return undefined;
      await collectGarbage(); // first values of parameters, which the given ones have replaced
      const weights = [...llama.namedParameters()].reduce((sum, [, { size }]) => sum + 4 * size, 0);
      const moments = parameters.reduce((sum, { size }) => sum + 8 * size, 0);
      const { arenaBytes, outsideBytes } = update.memory();
      const plan = weights + moments + 4 * (ids.size + targets.size) + arenaBytes + outsideBytes;
      return device.statistics.bytesInUse / plan;
    },
  };
}

function generator() {
  const llama = build();
  const { prompt, newTokens } = spec.generate;
  const { x } = buildBatch();
  return () => complete(llama, x.slice(0, prompt), { maxNewTokens: newTokens, temperature: 0 });
}

await compete({
  importMs,
  operations,
  trainer,
  generator,
  compilations: () => device.statistics.compilations,
  tensor: (data, shape) => fromTypedArray(data, shape),
  measured(f, tensors) {
    // into a cell: the same memory at every call
    const out = new Variable(compile(f)(...tensors));
    const call = compile(() => {
      out.assign(f(...tensors));
      return [];
    });
    const head = compile(() => out.value.reshape([-1]).slice("0:1"));
    return {
      run: () => call(),
      read() {
        call();
        return out.value.data();
      },
      ...(mode && { complete: () => head().data() }),
    };
  },
});
