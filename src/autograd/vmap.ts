/**
 * A function of one row, done for all rows at once: its graph is built once, then every node that depends on the rows gets an
 * axis in front. Eight rows or eight hundred, the number of kernels is that of one.
 */
import { ConfigError, ShapeError, wordType } from "../errors.ts";
import { matmul, matmulOp } from "../graph/contraction.ts";
import { add, and, less, mul, where } from "../graph/elementwise.ts";
import { isItem } from "../graph/fused.ts";
import { scatterAdd, scatterAddOp, take, takeOp } from "../graph/indexing.ts";
import {
  afterOp,
  customOp,
  expand,
  expandOp,
  padOp,
  permuteOp,
  reshape,
  reshapeOp,
  sliceOp,
  transpose,
} from "../graph/movement.ts";
import { Tensor, topologicalOrder } from "../graph/node.ts";
import type { Fused, KernelOperation, Movement, Reduction } from "../graph/primitive.ts";
import { maxReduceOp, reduceMax, reduceProduct, reduceSum, sumOp } from "../graph/reduction.ts";
import { constant, input, iota } from "../graph/source.ts";

type Backward = (g: Tensor, y: Tensor, ...inputs: Tensor[]) => readonly (Tensor | null)[];

/**
 * `f` for every row of `inputs` [N, ...]: each result with an axis N in front, also one that does not depend on the row.
 * @throws {ShapeError} when there are no inputs or they differ in N
 */
export function mapRows(operation: string, f: (...row: Tensor[]) => readonly Tensor[], inputs: readonly Tensor[]): Tensor[] {
  const N = inputs[0]?.shape[0];
  if (N === undefined)
    throw new ShapeError("needs at least one tensor with rows.", { operation, got: inputs.map((x) => x.shape) });
  for (const x of inputs)
    if (x.shape[0] !== N)
      throw new ShapeError(`tensors of the batch have ${N} and ${x.shape[0] ?? "no"} rows.`, {
        operation,
        expected: N,
        got: x.shape[0],
      });
  const row = inputs.map((x) => input(x.shape.slice(1), x.dtype));
  const results = f(...row);
  for (const y of results)
    if (!(y instanceof Tensor))
      throw new ConfigError(`the function of a row gives tensors, got ${wordType(y)}.`, { operation, got: y });
  return new Batch(N, row, inputs).of(results);
}

/** `f` of one row, for all rows at once, stacked along a new first axis; see tensor/derivative.ts. */
export function vmap(f: (...row: Tensor[]) => Tensor): (...inputs: Tensor[]) => Tensor {
  return (...inputs) => mapRows("vmap", (...row) => [f(...row)], inputs)[0]!;
}

/** A derivative by hand for one row, as one for all rows. */
function overRows(backward: Backward): Backward {
  return (g, y, ...inputs) => {
    let given: readonly boolean[] = [];
    const ofRow = (...[rowG, rowY, ...row]: Tensor[]): Tensor[] => {
      const all = backward(rowG!, rowY!, ...row);
      given = all.map((x) => x !== null);
      return all.filter((x) => x !== null);
    };
    const cotangents = mapRows("withVjp", ofRow, [g, y, ...inputs]).values();
    return given.map((there) => (there ? cotangents.next().value! : null));
  };
}

/** One rewriting of a graph. */
class Batch {
  readonly #N: number;
  /** Nodes that differ from row to row, in their form for all rows. */
  readonly #rows: Map<Tensor, Tensor>;
  readonly #visited: Set<Tensor>;
  readonly #compositions = new Map<Tensor, readonly Tensor[]>();

  constructor(N: number, row: readonly Tensor[], inputs: readonly Tensor[]) {
    this.#N = N;
    this.#rows = new Map(row.map((x, i) => [x, inputs[i]!]));
    this.#visited = new Set(row);
  }

  of(results: readonly Tensor[]): Tensor[] {
    this.#visit(results);
    return results.map((y) => this.#spread(y));
  }

  #visit(roots: readonly Tensor[]): void {
    for (const node of topologicalOrder(roots, (n) => this.#visited.has(n) || n.storage !== null)) {
      if (this.#visited.has(node)) continue;
      this.#visited.add(node);
      if (node.storage !== null || node.op.kind === "fused") continue;
      const sources = isItem(node) ? node.sources[0]!.sources : node.sources;
      if (sources.some((source) => this.#rows.has(source))) this.#rows.set(node, this.#rewrite(node));
    }
  }

  /** [N, ...x]: the form for all rows, or the one value repeated. */
  #spread(x: Tensor): Tensor {
    return this.#rows.get(x) ?? expand(reshape(x, [1, ...x.shape]), [this.#N, ...x.shape]);
  }

  #rewrite(node: Tensor): Tensor {
    if (isItem(node)) {
      // fused operations have one form only: their composition stands for them
      const fused = node.sources[0]!;
      let results = this.#compositions.get(fused);
      if (!results) this.#compositions.set(fused, (results = (fused.op as Fused).compose(fused.sources, fused.attributes)));
      const result = results[node.attributes["index"] as number]!;
      this.#visit([result]);
      return this.#spread(result);
    }
    switch (node.op.kind) {
      case "reduction":
        return this.#reduction(node.op, node);
      case "kernel":
        return this.#kernel(node.op, node);
      case "movement":
        return this.#movement(node.op, node);
      default:
        return this.#again(
          node,
          node.sources.map((source) => this.#spread(source)),
        );
    }
  }

  /** The same operation on all rows. */
  #again(node: Tensor, sources: readonly Tensor[], attributes = node.attributes): Tensor {
    return new Tensor(node.op, sources, [this.#N, ...node.shape], node.dtype, attributes);
  }

  #reduction(op: Reduction, node: Tensor): Tensor {
    const fold = op === sumOp ? reduceSum : op === maxReduceOp ? reduceMax : reduceProduct;
    return fold(
      this.#spread(node.sources[0]!),
      (node.attributes["axes"] as number[]).map((axis) => axis + 1),
    );
  }

  #movement(op: Movement, node: Tensor): Tensor {
    const { attributes } = node;
    const x = this.#spread(node.sources[0]!);
    const list = (name: string) => attributes[name] as number[];
    switch (op) {
      case reshapeOp:
        return reshape(x, [this.#N, ...node.shape]);
      case expandOp:
        return expand(x, [this.#N, ...node.shape]);
      case permuteOp:
        return this.#again(node, [x], { axes: [0, ...list("axes").map((axis) => axis + 1)] });
      case padOp:
        return this.#again(node, [x], { before: [0, ...list("before")], after: [0, ...list("after")] });
      case sliceOp:
        return this.#again(node, [x], { starts: [0, ...list("starts")], steps: [1, ...list("steps")] });
      case afterOp:
        return this.#again(node, [x, this.#rows.get(node.sources[1]!) ?? node.sources[1]!]);
      case customOp:
        return this.#again(
          node,
          node.sources.map((source) => this.#spread(source)),
          { backward: overRows(attributes["backward"] as Backward) },
        );
      default:
        return this.#again(node, [x]);
    }
  }

  #kernel(op: KernelOperation, node: Tensor): Tensor {
    const [a, b] = node.sources as [Tensor, Tensor];
    if (op === matmulOp) return this.#product(a, b);
    if (op !== takeOp && op !== scatterAddOp) return this.#again(node, [this.#spread(a)]); // along the last axis
    const extent = node.attributes["extent"] as number | undefined;
    if (op === scatterAddOp) {
      const [rows, width] = node.shape as [number, number];
      const updates = reshape(this.#spread(b), [this.#N * a.size, width]);
      return reshape(scatterAdd(this.#addresses(a, rows), updates, this.#N * rows, extent), [this.#N, rows, width]);
    }
    const [rows, width] = a.shape as [number, number];
    const table = this.#rows.get(a);
    // one table serves all rows
    if (!table) return take(a, this.#rows.get(b)!, extent);
    return reshape(take(reshape(table, [this.#N * rows, width]), this.#addresses(b, rows), extent), [this.#N, ...node.shape]);
  }

  /** Indices [n] into a table of `rows` for each row, as indices [N·n] into all tables, one after the other; −1 for those outside. */
  #addresses(index: Tensor, rows: number): Tensor {
    const int = (value: number) => constant(value, [], "int32");
    const at = this.#spread(index);
    const starts = reshape(mul(iota([this.#N]), int(rows)), [this.#N, 1]);
    const inside = and(less(int(-1), at), less(at, int(rows)));
    return reshape(where(inside, add(at, starts), int(-1)), [this.#N * index.size]);
  }

  /** One matrix for all rows is multiplied with all of them at once. */
  #product(a: Tensor, b: Tensor): Tensor {
    const [A, B] = [this.#rows.get(a), this.#rows.get(b)];
    if (a.rank === 2 && A && !B) return matmul(A, b);
    if (a.rank === 2 && B && !A) return transpose(matmul(transpose(B), transpose(a)));
    return matmul(this.#spread(a), this.#spread(b));
  }
}
