/**
 * The matrix product as WebGPU shaders. On graphics cards a workgroup keeps tiles of a and b in its own memory, read as vec4, and each thread
 * a block of sums in registers; where there are few rows or columns threads read for themselves and share out k instead. Where the processor
 * computes, such memory is no nearer than any other and waiting for each other costs most: there each thread reads for itself, too.
 */
import { batchOffset, type MatmulSizes, type MatrixWalk } from "./matmul.ts";

/** A shader and its number of workgroups. */
export interface Shader {
  readonly code: string;
  readonly workgroups: number;
}

/** The uniform that GPU.js fills, for a kernel of so many arrays. */
const parameters = (arrays: number): string =>
  `struct Params { x : u32, y : u32, z : u32, width : u32, ${Array.from({ length: arrays }, (_, i) => `d${i} : vec4<u32>`).join(", ")} }
@group(0) @binding(0) var<uniform> params : Params;`;

/** Where the matrix of `batch` begins. */
const begin = ({ batch, offset }: MatrixWalk): string =>
  `${batchOffset(batch, (n) => (n === 1 ? "batch" : `batch / ${n}u`), "u")} + ${offset}u`;

/** Whether rows and columns of an operand lie so that four neighbours along one of the two are one vec4. */
const isVector = (at: MatrixWalk, along: "row" | "column", extent: number): boolean => {
  const other = along === "row" ? at.column : at.row;
  return at[along] === 1 && [extent, other, at.offset, ...at.batch.map(({ stride }) => stride)].every((size) => size % 4 === 0);
};

const parts = ["x", "y", "z", "w"] as const;
const four = [0, 1, 2, 3] as const;

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

const kind = (isVector: boolean): string => (isVector ? "vec4<f32>" : "f32");

/** Declares the uniform and the arrays a, b, start if there is one, and result. The others say whether they are arrays of vec4. */
const bindings = (a: boolean, b: boolean, hasStart: boolean, result: boolean): string => {
  const arrays = hasStart ? 3 : 2;
  return `${parameters(arrays)}
@group(0) @binding(1) var<storage, read> a : array<${kind(a)}>;
@group(0) @binding(2) var<storage, read> b : array<${kind(b)}>;
${hasStart ? "@group(0) @binding(3) var<storage, read> start : array<f32>;" : ""}
@group(0) @binding(${arrays + 1}) var<storage, read_write> result : array<${kind(result)}>;`;
};

/** How a workgroup shares out a tile of the result. */
interface Tiling {
  readonly threads: readonly [down: number, across: number];
  /** Sums of a thread; by fours. */
  readonly sums: readonly [rows: number, columns: number];
  /** Steps along k between two fillings of the workgroup's memory. */
  readonly depth: number;
  /** Groups of threads that take a share of the depth each, and add up at the end. */
  readonly groups: number;
  /** Workgroups from which there are enough. */
  readonly least: number;
}

/** The larger a tile, the less is read for each sum; the smaller, the more of a card has something to do (docs/decisions/0045). */
const tilings: readonly Tiling[] = [
  { threads: [8, 8], sums: [8, 8], depth: 16, groups: 1, least: 192 },
  { threads: [8, 8], sums: [8, 4], depth: 16, groups: 1, least: 160 },
  { threads: [8, 8], sums: [4, 4], depth: 32, groups: 1, least: 192 },
  { threads: [4, 8], sums: [4, 4], depth: 32, groups: 4, least: 0 },
];

const tileOf = ({ threads, sums }: Tiling) => [threads[0] * sums[0], threads[1] * sums[1]] as const;

/** One of the two operands of a tile: how it is read from memory, and from the tile. */
class TileSide {
  /** Elements along k are one vec4 of the tile; else those across it are. */
  readonly alongK: boolean;
  readonly isVector: boolean;
  /** Vec4s of the tile. */
  readonly size: number;
  /** Statements that read a thread's share of the tile at k0 into variables, and that write those to the tile. */
  readonly declare: string[] = [];
  readonly load: string[] = [];
  readonly store: string[] = [];
  private readonly name: "a" | "b";
  private readonly sums: number;
  private readonly lines: number;
  private readonly pitch: number;

  /**
   * @param at     where the operand lies; `extent` are its lines, across k, `first` the expression of the tile's first one
   * @param lines  threads along the side, and sums of each
   */
  constructor(
    name: "a" | "b",
    at: MatrixWalk,
    { extent, K, first }: { readonly extent: number; readonly K: number; readonly first: string },
    {
      depth,
      threads,
      lines,
      sums,
    }: { readonly depth: number; readonly threads: number; readonly lines: number; readonly sums: number },
  ) {
    const [alongK, acrossK] = name === "a" ? (["column", "row"] as const) : (["row", "column"] as const);
    const vectors = { k: isVector(at, alongK, K), across: isVector(at, acrossK, extent) };
    const strides = { k: at[alongK], across: at[acrossK] };
    this.name = name;
    [this.sums, this.lines] = [sums, lines];
    this.isVector = vectors.k || vectors.across;
    this.alongK = this.isVector ? vectors.k : strides.across !== 1;
    const tile = lines * sums;
    const deep = depth / 4;
    // threads that read neighbouring lines find them in different banks of the memory
    this.pitch = this.alongK ? deep + 1 : tile / 4;
    this.size = this.alongK ? tile * this.pitch : depth * this.pitch;
    const count = (tile * depth) / 4;
    const guarded = K % depth !== 0;
    for (const l of range(Math.ceil(count / threads))) {
      const place = `(t + ${l * threads}u)`;
      const [line, k] = this.alongK
        ? [`${first} + ${place} / ${deep}u`, `k0 + ${place} % ${deep}u * 4u`]
        : [`${first} + ${place} % ${tile / 4}u * 4u`, `k0 + ${place} / ${tile / 4}u`];
      const element = (line: string, k: string, divisor = ""): string =>
        `${name}[(base_${name} + ${line} * ${strides.across}u + (${k}) * ${strides.k}u)${divisor}]`;
      const inside = (value: string, k: string, zero: string): string =>
        guarded ? `select(${zero}, ${value}, ${k} < ${K}u)` : value;
      // lines past the last one are read and not kept; what lies past the end of k counts as 0
      const value = this.isVector
        ? inside(element(`min(${line}, ${extent - (this.alongK ? 1 : 4)}u)`, k, " / 4u"), k, "vec4<f32>()")
        : `vec4<f32>(${four
            .map((j) => {
              const [ownLine, ownK] = this.alongK ? [line, `${k} + ${j}u`] : [`${line} + ${j}u`, k];
              const nearK = guarded ? `min(${ownK}, ${K - 1}u)` : ownK;
              return inside(element(`min(${ownLine}, ${extent - 1}u)`, nearK), ownK, "0.0");
            })
            .join(", ")})`;
      const inTile = this.alongK ? `${place} / ${deep}u * ${this.pitch}u + ${place} % ${deep}u` : place;
      const check = (l + 1) * threads > count ? `if (${place} < ${count}u) ` : "";
      this.declare.push(`var next_${name}${l} = vec4<f32>();`);
      this.load.push(`${check}{ next_${name}${l} = ${value}; }`);
      this.store.push(`${check}{ tile_${name}[${inTile}] = next_${name}${l}; }`);
    }
  }

  /** Reads what a thread needs of four steps of k. */
  read(thread: string): string[] {
    const { name, lines, pitch } = this;
    return this.alongK
      ? range(this.sums).map((i) => `let ${name}${i} = tile_${name}[(${thread} + ${i * lines}u) * ${pitch}u + k4];`)
      : range(this.sums / 4).flatMap((g) =>
          four.map((j) => `let ${name}${g}_${j} = tile_${name}[(k4 * 4u + ${j}u) * ${pitch}u + ${thread} + ${g * lines}u];`),
        );
  }

  /** The element of a thread's line `i` at step `j` of the four. */
  element(i: number, j: number): string {
    return this.alongK ? `${this.name}${i}.${parts[j]}` : `${this.name}${i >> 2}_${j}.${parts[i & 3]}`;
  }

  /** Which line of the tile that is. */
  line(thread: string, i: number): string {
    return this.alongK ? `${thread} + ${i * this.lines}u` : `(${thread} + ${(i >> 2) * this.lines}u) * 4u + ${i & 3}u`;
  }
}

/** Shader and number of workgroups. Bindings: parameters of GPU.js, a, b, start if there is one, result. */
function tiledWgsl(sizes: MatmulSizes, tiling: Tiling): Shader {
  const { batches, M, N, K, a, b, start } = sizes;
  const { threads: [down, across], sums: [rows, columns], groups } = tiling; // biome-ignore format: one thought
  const unit = 8 * groups;
  const depth = Math.min(tiling.depth, Math.ceil(K / unit) * unit);
  const [tileM, tileN] = tileOf(tiling);
  const [tall, wide] = [Math.ceil(M / tileM), Math.ceil(N / tileN)];
  const group = down * across;
  const threads = group * groups;
  const sideA = new TileSide("a", a, { extent: M, K, first: "top" }, { depth, threads, lines: down, sums: rows });
  const sideB = new TileSide("b", b, { extent: N, K, first: "left" }, { depth, threads, lines: across, sums: columns });
  const squares = range(rows).flatMap((i) => range(columns).map((n) => [i, n] as const));
  const isWide = !sideB.alongK && N % 4 === 0;
  const share = depth / 4 / groups;
  const sum = (i: number, n: number): string =>
    `s${i}_${n}${start ? ` + start[${begin(start)} + row * ${start.row}u + (left + ${sideB.line("x", n)}) * ${start.column}u]` : ""}`;
  const write = range(rows).map((i) => {
    const at = (n: number): string => `(batch * ${M}u + row) * ${N}u + left + ${sideB.line("x", n)}`;
    const stores = isWide
      ? range(columns / 4).map(
          (g) =>
            `if (left + ${sideB.line("x", 4 * g)} < ${N}u) { result[(${at(4 * g)}) / 4u] = vec4<f32>(${four.map((c) => sum(i, 4 * g + c)).join(", ")}); }`,
        )
      : range(columns).map((n) => `if (left + ${sideB.line("x", n)} < ${N}u) { result[${at(n)}] = ${sum(i, n)}; }`);
    return `  {
    let row = top + ${sideA.line("y", i)};
    if (row < ${M}u) {
      ${stores.join("\n      ")}
    }
  }`;
  });
  const meet = range(groups - 1).map(
    (g) => `  if (part == ${g + 1}u) {
${squares.map(([i, n], at) => `    meeting[${at * group}u + own] = s${i}_${n};`).join("\n")}
  }
  workgroupBarrier();
  if (part == 0u) {
${squares.map(([i, n], at) => `    s${i}_${n} += meeting[${at * group}u + own];`).join("\n")}
  }
  workgroupBarrier();`,
  );
  const fill = (at: string): string => `    {
      let k0 = ${at};
      ${[...sideA.load, ...sideB.load].join("\n      ")}
    }`;
  const code = `${bindings(sideA.isVector, sideB.isVector, start !== undefined, isWide)}
var<workgroup> tile_a : array<vec4<f32>, ${sideA.size}>;
var<workgroup> tile_b : array<vec4<f32>, ${sideB.size}>;
${groups > 1 ? `var<workgroup> meeting : array<f32, ${squares.length * group}>;` : ""}

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) group : vec3<u32>, @builtin(num_workgroups) groups : vec3<u32>, @builtin(local_invocation_index) t : u32) {
  let number = group.y * groups.x + group.x;
  if (number >= ${batches * tall * wide}u) { return; }
  let batch = number / ${tall * wide}u;
  let at = number % ${tall * wide}u;
  let top = at / ${wide}u * ${tileM}u;
  let left = at % ${wide}u * ${tileN}u;
  let part = t / ${group}u;
  let own = t % ${group}u;
  let y = own / ${across}u;
  let x = own % ${across}u;
  let base_a = ${begin(a)};
  let base_b = ${begin(b)};
${squares.map(([i, n]) => `  var s${i}_${n} = 0.0;`).join("\n")}
  ${[...sideA.declare, ...sideB.declare].join("\n  ")}
${fill("0u")}
  for (var k1 = 0u; k1 < ${K}u; k1 += ${depth}u) {
    ${[...sideA.store, ...sideB.store].join("\n    ")}
    workgroupBarrier();
    // what comes next is on its way while this is multiplied
    if (k1 + ${depth}u < ${K}u) {
${fill(`k1 + ${depth}u`)}
    }
    for (var k4 = part * ${share}u; k4 < (part + 1u) * ${share}u; k4++) {
      ${[...sideA.read("y"), ...sideB.read("x")].join("\n      ")}
      ${four.flatMap((j) => squares.map(([i, n]) => `s${i}_${n} = fma(${sideA.element(i, j)}, ${sideB.element(n, j)}, s${i}_${n});`)).join("\n      ")}
    }
    workgroupBarrier();
  }
${groups > 1 ? `${meet.join("\n")}\n  if (part > 0u) { return; }` : ""}
${write.join("\n")}
}`;
  return { code, workgroups: batches * tall * wide };
}

/** Rows or columns up to which threads share out k, and not a tile; and sums up to which so many threads do for each block of them. */
const few = 32;
const sharing = [
  { blocks: 1024, shares: 64 },
  { blocks: 8192, shares: 32 },
] as const;

/** The shader for a graphics card. */
export function cardWgsl(sizes: MatmulSizes): Shader {
  const { batches, M, N, K } = sizes;
  const blocks = batches * Math.ceil(M / 4) * Math.ceil(N / 4);
  const most = 2 ** Math.floor(Math.log2(Math.max(1, K / 4)));
  const shares = Math.min(most, sharing.find((few) => blocks <= few.blocks)?.shares ?? 1);
  if (Math.min(M, N) <= few || (K <= 16 && blocks <= 16384)) return registerWgsl(sizes, 4, shares);
  const workgroupsOf = (tiling: Tiling): number => {
    const [tileM, tileN] = tileOf(tiling);
    return batches * Math.ceil(M / tileM) * Math.ceil(N / tileN);
  };
  return tiledWgsl(sizes, tilings.find((tiling) => workgroupsOf(tiling) >= tiling.least)!);
}

/**
 * Each thread computes `rows` × 4 sums from what it reads itself, or a share of them: `shares` threads take every so many fours along k each,
 * and add up in the workgroup's memory. Bindings as of `tiledWgsl`.
 */
export function registerWgsl({ batches, M, N, K, a, b, start }: MatmulSizes, rows = M >= 64 ? 8 : 4, shares = 1): Shader {
  const threads = shares > 32 ? 256 : 64;
  const blocks = threads / shares;
  const [down, across] = [Math.ceil(M / rows), Math.ceil(N / 4)];
  const total = batches * down * across;
  const each = range(rows);
  const formA = isVector(a, "column", K) ? "along k" : isVector(a, "row", M) ? "along m" : "single";
  const formB = isVector(b, "row", K) ? "along k" : isVector(b, "column", N) ? "along n" : "single";
  const wide = N % 4 === 0;
  const guard = (value: string, j: number, zero: string): string =>
    K % 4 === 0 ? value : `select(${zero}, ${value}, k + ${j}u < ${K}u)`;
  const step = (j: number): string => (K % 4 === 0 ? `(k + ${j}u)` : `min(k + ${j}u, ${K - 1}u)`);

  const readA: string[] = [];
  if (formA === "along k") for (const i of each) readA.push(`let a${i} = a[(baseA + row${i} * ${a.row}u + k) / 4u];`);
  else if (formA === "along m")
    // a group of four rows begins at a multiple of four: rows past the last group are not kept
    for (let g = 0; g < rows / 4; g++)
      for (const j of four)
        readA.push(
          `let m${g}${j} = ${guard(`a[(baseA + min(top + ${4 * g}u, ${M - 4}u) + ${step(j)} * ${a.column}u) / 4u]`, j, "vec4<f32>()")};`,
        );
  if (formA === "along m")
    for (const i of each) readA.push(`let a${i} = vec4<f32>(${four.map((j) => `m${i >> 2}${j}.${parts[i & 3]}`).join(", ")});`);
  else if (formA === "single")
    for (const i of each)
      readA.push(
        `let a${i} = vec4<f32>(${four.map((j) => guard(`a[baseA + row${i} * ${a.row}u + ${step(j)} * ${a.column}u]`, j, "0.0")).join(", ")});`,
      );

  const work: string[] = [];
  if (formB === "along k") {
    for (const j of four) work.push(`let b${j} = b[(baseB + column${j} * ${b.column}u + k) / 4u];`);
    for (const i of each) work.push(`s${i} += vec4<f32>(${four.map((j) => `dot(a${i}, b${j})`).join(", ")});`);
  } else {
    for (const j of four) {
      const value =
        formB === "along n"
          ? guard(`b[(baseB + ${step(j)} * ${b.row}u + left) / 4u]`, j, "vec4<f32>()")
          : `vec4<f32>(${four.map((n) => guard(`b[baseB + ${step(j)} * ${b.row}u + column${n} * ${b.column}u]`, j, "0.0")).join(", ")})`;
      work.push(`let b${j} = ${value};`);
    }
    for (const i of each) work.push(`s${i} += ${four.map((j) => `a${i}.${parts[j]} * b${j}`).join(" + ")};`);
  }

  const write = each.map((i) => {
    const row = `(top + ${i}u)`;
    const at = (n: number): string => `start[${begin(start!)} + ${row} * ${start!.row}u + column${n} * ${start!.column}u]`;
    const lines = start ? [`s${i} += vec4<f32>(${four.map(at).join(", ")});`] : [];
    if (wide) lines.push(`result[((batch * ${M}u + ${row}) * ${N}u + left) / 4u] = s${i};`);
    else
      for (const n of four)
        lines.push(`if (left + ${n}u < ${N}u) { result[(batch * ${M}u + ${row}) * ${N}u + left + ${n}u] = s${i}.${parts[n]}; }`);
    return `  if (${row} < ${M}u) { ${lines.join(" ")} }`;
  });
  // neighbours read neighbours: along k where that is how b lies, and else along n
  const [part, block, distance] =
    formB === "along k"
      ? [`t % ${shares}u`, `t / ${shares}u`, "span"]
      : [`t / ${blocks}u`, `t % ${blocks}u`, `span * ${blocks}u`];
  const meet = `${each.map((i) => `  meeting[${i * threads}u + t] = s${i};`).join("\n")}
  workgroupBarrier();
  for (var span = ${shares / 2}u; span > 0u; span >>= 1u) {
    if (part < span) {
${each.map((i) => `      meeting[${i * threads}u + t] += meeting[${i * threads}u + t + ${distance}];`).join("\n")}
    }
    workgroupBarrier();
  }
  if (part > 0u || asked >= ${total}u) { return; }
${each.map((i) => `  s${i} = meeting[${i * threads}u + t];`).join("\n")}`;
  const code = `${bindings(formA !== "single", formB !== "single", start !== undefined, wide)}
${shares === 1 ? "" : `var<workgroup> meeting : array<vec4<f32>, ${rows * threads}>;`}

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) group : vec3<u32>, @builtin(num_workgroups) groups : vec3<u32>, @builtin(local_invocation_index) t : u32) {
  let part = ${part};
  let asked = (group.y * groups.x + group.x) * ${blocks}u + ${block};
${shares === 1 ? `  if (asked >= ${total}u) { return; }` : ""}
  let number = min(asked, ${total - 1}u);
  let batch = number / ${down * across}u;
  let at = number % ${down * across}u;
  let top = (at / ${across}u) * ${rows}u;
  let left = (at % ${across}u) * 4u;
  let baseA = ${begin(a)};
  let baseB = ${begin(b)};
${each.map((i) => `  let row${i} = min(top + ${i}u, ${M - 1}u);\n  var s${i} = vec4<f32>();`).join("\n")}
${four.map((n) => `  let column${n} = min(left + ${n}u, ${N - 1}u);`).join("\n")}
  for (var k = part * 4u; k < ${K}u; k += ${4 * shares}u) {
${[...readA, ...work].map((line) => `    ${line}`).join("\n")}
  }
${shares === 1 ? "" : meet}
${write.join("\n")}
}`;
  return { code, workgroups: Math.ceil(total / blocks) };
}
