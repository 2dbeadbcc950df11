/**
 * The matrix product as WebGPU shaders. On graphics cards a workgroup of 16×16 threads keeps tiles of a and b in its own memory, each
 * thread a square of sums in registers. Where the processor computes, such memory is no nearer than any other and waiting for each other
 * costs most: there each thread reads for itself, four floats at once, and keeps a larger block of sums.
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

/** Threads along each side of a workgroup, and steps along k between two fillings of its memory. */
const side = 16;

/** Shader and number of workgroups. Bindings: parameters of GPU.js, a, b, start if there is one, result. */
export function tiledWgsl({ batches, M, N, K, a, b, start }: MatmulSizes): Shader {
  // sums per thread along each side: 4 where there are rows and columns enough to fill tiles of 64
  const own = Math.min(M, N) >= 48 ? 4 : Math.min(M, N) >= 24 ? 2 : 1;
  const tile = side * own;
  const [across, down] = [Math.ceil(N / tile), Math.ceil(M / tile)];
  const each = Array.from({ length: own }, (_, i) => i);
  const squares = each.flatMap((i) => each.map((j) => [i, j] as const));
  const walk = (at: MatrixWalk, row: string, column: string): string =>
    `${begin(at)} + (${row}) * ${at.row}u + (${column}) * ${at.column}u`;
  const arrays = start ? 3 : 2;
  const binding = (i: number, name: string, access: string): string =>
    `@group(0) @binding(${i}) var<storage, ${access}> ${name} : array<f32>;`;
  const code = `${parameters(arrays)}
${binding(1, "a", "read")}
${binding(2, "b", "read")}
${start ? binding(3, "start", "read") : ""}
${binding(arrays + 1, "result", "read_write")}
var<workgroup> tileA : array<f32, ${tile * side}>;
var<workgroup> tileB : array<f32, ${tile * side}>;

@compute @workgroup_size(${side * side})
fn main(@builtin(workgroup_id) group : vec3<u32>, @builtin(num_workgroups) groups : vec3<u32>, @builtin(local_invocation_index) t : u32) {
  let number = group.y * groups.x + group.x;
  if (number >= ${batches * across * down}u) { return; }
  let batch = number / ${across * down}u;
  let at = number % ${across * down}u;
  let top = (at / ${across}u) * ${tile}u;
  let left = (at % ${across}u) * ${tile}u;
  let y = t / ${side}u;
  let x = t % ${side}u;
${squares.map(([i, j]) => `  var s${i}${j} = 0.0;`).join("\n")}
  for (var k0 = 0u; k0 < ${K}u; k0 += ${side}u) {
${each
  .map(
    (i) => `    {
      let row = top + y + ${i * side}u;
      let k = k0 + x;
      var value = 0.0;
      if (row < ${M}u && k < ${K}u) { value = a[${walk(a, "row", "k")}]; }
      tileA[(y + ${i * side}u) * ${side}u + x] = value;
    }
    {
      let k = k0 + y;
      let column = left + x + ${i * side}u;
      var value = 0.0;
      if (k < ${K}u && column < ${N}u) { value = b[${walk(b, "k", "column")}]; }
      tileB[y * ${tile}u + x + ${i * side}u] = value;
    }`,
  )
  .join("\n")}
    workgroupBarrier();
    for (var k = 0u; k < ${side}u; k++) {
${each.map((i) => `      let a${i} = tileA[(y + ${i * side}u) * ${side}u + k];`).join("\n")}
${each.map((j) => `      let b${j} = tileB[k * ${tile}u + x + ${j * side}u];`).join("\n")}
${squares.map(([i, j]) => `      s${i}${j} += a${i} * b${j};`).join("\n")}
    }
    workgroupBarrier();
  }
${squares
  .map(
    ([i, j]) => `  {
    let row = top + y + ${i * side}u;
    let column = left + x + ${j * side}u;
    if (row < ${M}u && column < ${N}u) {
      result[(batch * ${M}u + row) * ${N}u + column] = s${i}${j}${start ? ` + start[${walk(start, "row", "column")}]` : ""};
    }
  }`,
  )
  .join("\n")}
}`;
  return { code, workgroups: batches * across * down };
}

/** Whether rows and columns of an operand lie so that four neighbours along one of the two are one vec4. */
const isVector = (at: MatrixWalk, along: "row" | "column", extent: number): boolean => {
  const other = along === "row" ? at.column : at.row;
  return at[along] === 1 && [extent, other, at.offset, ...at.batch.map(({ stride }) => stride)].every((size) => size % 4 === 0);
};

const parts = ["x", "y", "z", "w"] as const;
const four = [0, 1, 2, 3] as const;

/** Each thread computes `rows` × 4 sums from what it reads itself. Bindings as of `tiledWgsl`. */
export function registerWgsl({ batches, M, N, K, a, b, start }: MatmulSizes, rows = M >= 64 ? 8 : 4): Shader {
  const threads = 64;
  const [down, across] = [Math.ceil(M / rows), Math.ceil(N / 4)];
  const total = batches * down * across;
  const arrays = start ? 3 : 2;
  const each = Array.from({ length: rows }, (_, i) => i);
  const formA = isVector(a, "column", K) ? "along k" : isVector(a, "row", M) ? "along m" : "single";
  const formB = isVector(b, "row", K) ? "along k" : isVector(b, "column", N) ? "along n" : "single";
  const wide = N % 4 === 0;
  const kind = (vector: boolean): string => (vector ? "vec4<f32>" : "f32");
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
  const code = `${parameters(arrays)}
@group(0) @binding(1) var<storage, read> a : array<${kind(formA !== "single")}>;
@group(0) @binding(2) var<storage, read> b : array<${kind(formB !== "single")}>;
${start ? "@group(0) @binding(3) var<storage, read> start : array<f32>;" : ""}
@group(0) @binding(${arrays + 1}) var<storage, read_write> result : array<${kind(wide)}>;

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) group : vec3<u32>, @builtin(num_workgroups) groups : vec3<u32>, @builtin(local_invocation_index) t : u32) {
  let number = (group.y * groups.x + group.x) * ${threads}u + t;
  if (number >= ${total}u) { return; }
  let batch = number / ${down * across}u;
  let at = number % ${down * across}u;
  let top = (at / ${across}u) * ${rows}u;
  let left = (at % ${across}u) * 4u;
  let baseA = ${begin(a)};
  let baseB = ${begin(b)};
${each.map((i) => `  let row${i} = min(top + ${i}u, ${M - 1}u);\n  var s${i} = vec4<f32>();`).join("\n")}
${four.map((n) => `  let column${n} = min(left + ${n}u, ${N - 1}u);`).join("\n")}
  for (var k = 0u; k < ${K}u; k += 4u) {
${[...readA, ...work].map((line) => `    ${line}`).join("\n")}
  }
${write.join("\n")}
}`;
  return { code, workgroups: Math.ceil(total / threads) };
}
