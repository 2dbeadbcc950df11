/**
 * Attention in WGSL, without scores in memory: every shader walks over tiles of scores, makes the weights of a tile from the
 * log-sums of their rows, and adds what they weigh to sums in registers (FlashAttention, https://arxiv.org/abs/2205.14135; the
 * log-sums come from a shader of their own, since a GPU.js kernel writes one value, and then nothing has to be rescaled).
 *
 * A workgroup of 16×16 threads owns a block of rows: queries of a head for the log-sums, y and dq, keys of a key head for dk and dv,
 * where it walks over the queries of all heads that share it. A thread has the scores of rows y, y + 16, … with columns x, x + 16, …
 */

/** Where an operand [B, T, heads, size] lies; its last axis has stride 1. */
export interface HeadWalk {
  readonly offset: number;
  readonly batch: number;
  readonly time: number;
  readonly head: number;
}

/** Heads H are a multiple of key heads G; query i sees the keys j with i + low ≤ j < i + high. */
export interface AttentionSizes {
  readonly B: number;
  readonly Tq: number;
  readonly Tk: number;
  readonly H: number;
  readonly G: number;
  readonly D: number;
  readonly E: number;
  readonly low: number;
  readonly high: number;
  readonly scale: number;
}

/** log-sums [B, H, Tq], y [B, Tq, H, E], and the cotangents of q, k and v as these are. */
export type AttentionResult = "logSums" | "y" | "dq" | "dk" | "dv";

const side = 16;

/** A WGSL expression for a whole number that may be negative, in arithmetic modulo 2³². */
const u32 = (value: number): string => `${value >>> 0}u`;
const float = (value: number): string => (Number.isInteger(value) ? value.toFixed(1) : String(value));

/**
 * Shader and number of workgroups. `names` are the arrays bound, in order; `walks` those of them that are [B, T, heads, size], the
 * others (logSum, deltas) being [B, H, Tq].
 */
export function attentionWgsl(
  wanted: AttentionResult,
  { B, Tq, Tk, H, G, D, E, low, high, scale }: AttentionSizes,
  names: readonly string[],
  walks: Readonly<Record<string, HeadWalk>>,
): { code: string; workgroups: number } {
  const byKeys = wanted === "dk" || wanted === "dv";
  const withSlopes = wanted === "dq" || wanted === "dk";
  const share = H / G;
  const [rows, columns, heads] = byKeys ? [Tk, Tq, G] : [Tq, Tk, H];
  const own = Math.min(rows, columns) >= 24 ? 2 : 1;
  const tile = side * own;
  const pitch = tile + 1;
  const blocks = Math.ceil(rows / tile);
  const each = Array.from({ length: own }, (_, i) => i);
  const squares = each.flatMap((i) => each.map((j) => [i, j] as const));
  const lines = (write: (i: number, j: number) => string): string => squares.map(([i, j]) => write(i, j)).join("\n");

  /** An element of an operand, the row or column being a token of it. */
  const at = (name: string, time: string, element: string): string => {
    const walk = walks[name]!;
    const head = name === "k" || name === "v" ? "keyHead" : "head";
    return `${name}[${u32(walk.offset)} + batch * ${u32(walk.batch)} + (${time}) * ${u32(walk.time)} + ${head} * ${u32(walk.head)} + ${element}]`;
  };
  /** s += rows of one operand times rows of another, `size` long. */
  const products = (s: string, left: string, right: string, size: number): string => `
${lines((i, j) => `      var ${s}${i}${j} = 0.0;`)}
      for (var d0 = 0u; d0 < ${size}u; d0 += ${side}u) {
        let d = d0 + x;
${each
  .map(
    (i) => `        {
          let row = top + y + ${i * side}u;
          let column = left + y + ${i * side}u;
          var a = 0.0;
          var b = 0.0;
          if (d < ${size}u && row < ${rows}u) { a = ${at(left, "row", "d")}; }
          if (d < ${size}u && column < ${columns}u) { b = ${at(right, "column", "d")}; }
          tileA[(y + ${i * side}u) * ${side}u + x] = a;
          tileB[x * ${pitch}u + y + ${i * side}u] = b;
        }`,
  )
  .join("\n")}
        workgroupBarrier();
        for (var n = 0u; n < ${side}u; n++) {
${each.map((i) => `          let a${i} = tileA[(y + ${i * side}u) * ${side}u + n];`).join("\n")}
${each.map((j) => `          let b${j} = tileB[n * ${pitch}u + x + ${j * side}u];`).join("\n")}
${lines((i, j) => `          ${s}${i}${j} += a${i} * b${j};`)}
        }
        workgroupBarrier();
      }`;
  /** Runs `body` where the thread's score is one that a query sees, with `query` and `key` as its place. */
  const seen = (i: number, j: number, body: string): string => `      {
        let row = top + y + ${i * side}u;
        let column = left + x + ${j * side}u;
        let query = i32(${byKeys ? "column" : "row"});
        let key = i32(${byKeys ? "row" : "column"});
        if (row < ${rows}u && column < ${columns}u && key >= query + (${low}) && key < query + (${high})) { ${body} }
      }`;
  const lineOf = `((batch * ${H}u + head) * ${Tq}u + u32(query))`;
  const weight = (i: number, j: number): string => `exp(s${i}${j} * ${float(scale)} - logSum[${lineOf}])`;

  const width = wanted === "y" || wanted === "dv" ? E : D;
  const parts = Array.from({ length: Math.ceil(width / side) }, (_, c) => c);
  const weighed = { logSums: "", y: "v", dq: "k", dk: "q", dv: "g" }[wanted];
  /** The weights or slopes of the tile to workgroup memory, then what they weigh into the sums; neighbours read the same elements of it. */
  const mix = `
${lines((i, j) => {
  const value = withSlopes ? `${weight(i, j)} * (t${i}${j} - deltas[${lineOf}]) * ${float(scale)}` : weight(i, j);
  return `      var w${i}${j} = 0.0;
${seen(i, j, `w${i}${j} = ${value};`)}
      weights[(y + ${i * side}u) * ${pitch}u + x + ${j * side}u] = w${i}${j};`;
})}
      workgroupBarrier();
      for (var n = 0u; n < min(${tile}u, ${columns}u - left); n++) {
        let column = left + n;
${each.map((i) => `        let w${i} = weights[(y + ${i * side}u) * ${pitch}u + n];`).join("\n")}
${parts
  .map((c) => {
    // past the end of a row there is something or nothing; its sum is not written
    const value = weighed && at(weighed, "column", `x + ${c * side}u`);
    return `        let value${c} = ${value};\n${each.map((i) => `        sum${i}_${c} += w${i} * value${c};`).join("\n")}`;
  })
  .join("\n")}
      }
      workgroupBarrier();`;
  /** The largest so far and the sum of exp relative to it, in every thread for its own columns. */
  const fold = lines((i, j) =>
    seen(
      i,
      j,
      `let score = s${i}${j} * ${float(scale)};
          if (score > top${i}) { total${i} = total${i} * exp(top${i} - score) + 1.0; top${i} = score; }
          else { total${i} += exp(score - top${i}); }`,
    ),
  );
  const foldRows = each
    .map(
      (i) => `  tileA[t] = top${i};
  tileB[t] = total${i};
  workgroupBarrier();
  if (x == 0u && top + y + ${i * side}u < ${rows}u) {
    var largest = -1e20;
    for (var n = 0u; n < ${side}u; n++) { largest = max(largest, tileA[y * ${side}u + n]); }
    var total = 0.0;
    for (var n = 0u; n < ${side}u; n++) { total += tileB[y * ${side}u + n] * exp(tileA[y * ${side}u + n] - largest); }
    result[(batch * ${H}u + owner) * ${Tq}u + top + y + ${i * side}u] = largest + log(max(total, 1e-30));
  }
  workgroupBarrier();`,
    )
    .join("\n");
  const writeRows = each
    .flatMap((i) =>
      parts.map(
        (c) => `  if (top + y + ${i * side}u < ${rows}u && x + ${c * side}u < ${width}u) {
    result[((batch * ${rows}u + top + y + ${i * side}u) * ${heads}u + owner) * ${width}u + x + ${c * side}u] = sum${i}_${c};
  }`,
      ),
    )
    .join("\n");

  // columns that any row of the block sees
  const [from, to] = byKeys ? [1 - high, 1 - low] : [low, high];
  const [left, right] = byKeys ? ["k", "q"] : ["q", "k"];
  const [leftSlope, rightSlope] = byKeys ? ["v", "g"] : ["g", "v"];
  const variables =
    wanted === "logSums"
      ? each.map((i) => `  var top${i} = -1e20;\n  var total${i} = 0.0;`)
      : each.flatMap((i) => parts.map((c) => `  var sum${i}_${c} = 0.0;`));
  const bindings = names.map((name, i) => `@group(0) @binding(${i + 1}) var<storage, read> ${name} : array<f32>;`);
  const code = `struct Params { x : u32, y : u32, z : u32, width : u32, ${names.map((_, i) => `d${i} : vec4<u32>`).join(", ")} }
@group(0) @binding(0) var<uniform> params : Params;
${bindings.join("\n")}
@group(0) @binding(${names.length + 1}) var<storage, read_write> result : array<f32>;
var<workgroup> tileA : array<f32, ${tile * side}>;
var<workgroup> tileB : array<f32, ${pitch * side}>;
${wanted === "logSums" ? "" : `var<workgroup> weights : array<f32, ${tile * pitch}>;`}

@compute @workgroup_size(${side * side})
fn main(@builtin(workgroup_id) group : vec3<u32>, @builtin(num_workgroups) groups : vec3<u32>, @builtin(local_invocation_index) t : u32) {
  let number = group.y * groups.x + group.x;
  if (number >= ${B * heads * blocks}u) { return; }
  let top = (number % ${blocks}u) * ${tile}u;
  let owner = (number / ${blocks}u) % ${heads}u;
  let batch = number / ${blocks * heads}u;
  let y = t / ${side}u;
  let x = t % ${side}u;
${variables.join("\n")}
  let first = u32(max(0, i32(top) + (${from}))) / ${tile}u * ${tile}u;
  let end = u32(clamp(i32(top) + ${tile - 1} + (${to}), 0, ${columns}));
  for (var member = 0u; member < ${byKeys ? share : 1}u; member++) {
    let head = ${byKeys ? `owner * ${share}u + member` : "owner"};
    let keyHead = head / ${share}u;
    for (var left = first; left < end; left += ${tile}u) {
${products("s", left, right, D)}
${withSlopes ? products("t", leftSlope, rightSlope, E) : ""}
${wanted === "logSums" ? fold : mix}
    }
  }
${wanted === "logSums" ? foldRows : writeRows}
}`;
  return { code, workgroups: B * heads * blocks };
}
