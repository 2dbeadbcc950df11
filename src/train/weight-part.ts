/** Parameters that checkpoints have in equal parts under names of their own, such as experts one by one. */
import { download } from "../compile/program.ts";
import { FormatError, ShapeError, wordShape } from "../errors.ts";
import type { StoredTensor, TensorToWrite } from "../formats/safetensors.ts";
import { dtypes, type TypedArray, toFloat32 } from "../graph/dtype.ts";
import { reshape, sliceAxis, transpose } from "../graph/movement.ts";
import { type Shape, sameShape, sizeOf } from "../graph/shape.ts";
import { constant } from "../graph/source.ts";
import type { CheckpointNames } from "../models/checkpoint-name.ts";
import type { CodedMatrices } from "../models/mixture.ts";
import type { Parameter } from "../nn/module.ts";

/** A part of a parameter [n, rows, columns]: some rows of one of the n; of [n, columns] one of the n. */
const shapeOfPart = (shape: Shape, parts: number): Shape =>
  shape.length === 2 ? shape.slice(1) : [sizeOf(shape.slice(0, -1)) / parts, shape.at(-1) as number];

/**
 * Puts together what a checkpoint has in parts: takes those out of `stored` and puts the whole in, under its path.
 *
 * @param stored by path in the model
 * @param own    the model's parameters by path
 * @throws {FormatError} when some parts are there and others not; @throws {ShapeError} for a part of another shape
 */
export function joinParts(
  stored: Map<string, StoredTensor>,
  own: ReadonlyMap<string, Pick<Parameter, "shape">>,
  names: Partial<CheckpointNames>,
  source: string,
): void {
  const operation = "loadModel";
  for (const [path, { shape }] of own) {
    const parts = names.partsOf?.(path, shape)?.map((name) => ({ name, path: names.pathOf?.(name) ?? name }));
    if (!parts?.some((part) => stored.has(part.path))) continue;
    const expected = shapeOfPart(shape, parts.length);
    const found = parts.map(({ name, path: at }): StoredTensor => {
      const part = stored.get(at);
      if (!part) throw new FormatError(`${source} lacks "${name}".`, { operation, expected: name });
      if (!sameShape(part.shape, expected))
        throw new ShapeError(`"${name}" is ${wordShape(part.shape)} in ${source}, ${wordShape(expected)} by config.json.`, {
          operation,
          expected,
          got: part.shape,
        });
      stored.delete(at);
      return part;
    });
    stored.set(path, joined(path, found, shape));
  }
}

/** Equal parts, one behind the other. */
function joined(name: string, parts: readonly StoredTensor[], shape: Shape): StoredTensor {
  const [first] = parts as [StoredTensor];
  const size = sizeOf(first.shape);
  const isOneDType = parts.every(({ dtype }) => dtype === first.dtype);
  const { dtype, storedDType } = isOneDType ? first : ({ dtype: "float32", storedDType: "F32" } as const);
  const byteLength = parts.reduce((sum, part) => sum + part.byteLength, 0);
  const load: StoredTensor["load"] = async (from = 0, to = size * parts.length) => {
    const pieces = [];
    for (let at = from; at < to; ) {
      const index = Math.floor(at / size);
      const end = Math.min(to, (index + 1) * size);
      const part = parts[index] as StoredTensor;
      const values = await part.load(at - index * size, end - index * size);
      pieces.push(isOneDType ? values : toFloat32(values, part.dtype));
      at = end;
    }
    const all = new dtypes[dtype].array(to - from);
    let at = 0;
    for (const values of pieces) {
      all.set(values, at);
      at += values.length;
    }
    return all;
  };
  return { name, dtype, storedDType, shape, byteLength, load };
}

/**
 * A parameter to write, in the parts that checkpoints have it in.
 *
 * @param names of the parts; a name alone is that of the whole
 * @param write values as they are stored
 */
export function inParts(
  names: string | readonly string[],
  { stored, shape }: Parameter,
  dtype: TensorToWrite["dtype"],
  write: (values: TypedArray) => TypedArray,
): [name: string, tensor: TensorToWrite][] {
  if (typeof names === "string") return [[names, { dtype, shape, load: async () => write(await download(stored)) }]];
  const part = shapeOfPart(shape, names.length);
  const rows = reshape(stored, [names.length, sizeOf(part)]);
  const load = async (i: number) => write(await download(sliceAxis(rows, 0, i, i + 1)));
  return names.map((each, i) => [each, { dtype, shape: part, load: () => load(i) }]);
}

/** Experts that are kept as codes, in the parts that checkpoints have them in: what the codes stand for. */
export function widenedParts(
  names: readonly string[],
  { shape, codes, isTransposed }: CodedMatrices,
  dtype: TensorToWrite["dtype"],
  write: (values: TypedArray) => TypedArray,
): [name: string, tensor: TensorToWrite][] {
  const isWhole = names.length === 1;
  const part = isWhole ? shape : shapeOfPart(shape, names.length);
  const stored = isTransposed ? [shape[0], shape[2], shape[1]] : part;
  const load = async (i: number) => {
    const values = isTransposed ? transpose(codes.parts(shape[0])) : codes.parts(names.length, constant(i, [1], "int32"));
    return write(await download(values));
  };
  return names.map((name, i) => [name, { dtype, shape: stored, load: () => load(i) }]);
}
