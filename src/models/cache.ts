/**
 * The key/value cache of generation. It lives in variables of a fixed size, written at a position that is a variable
 * too, so that one compiled step serves every token.
 */
import { currentDevice, upload } from "../compile/program.ts";
import { type CompiledFunction, compile } from "../compile/trace.ts";
import { requireKind, ShapeError, wordShape } from "../errors.ts";
import { sizeValue } from "../graph/composite.ts";
import { dtypes } from "../graph/dtype.ts";
import { add, cast, max, sub } from "../graph/elementwise.ts";
import { pad, permute, reshape, sliceAxis } from "../graph/movement.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { place } from "../graph/placement.ts";
import { reduceSum } from "../graph/reduction.ts";
import { sameShape, sizeOf } from "../graph/shape.ts";
import { constant } from "../graph/source.ts";
import { assignAll, Setting, Variable } from "../graph/variable.ts";
import { cumsum } from "../tensor/statistics.ts";

/** The sizes of a model that decide how large its cache is. */
export interface CacheSizes {
  readonly layers: number;
  /** Heads of keys and values: G. */
  readonly heads: number;
  readonly headDim: number;
}

interface CachedLayer {
  readonly keys: Variable;
  readonly values: Variable;
}

const whole = (value: number): Tensor => constant(value, [], "int32");
const zeros = (shape: readonly number[], dtype: "float32" | "int32"): Variable =>
  new Variable(upload(currentDevice(), new dtypes[dtype].array(sizeOf(shape)), shape, dtype), { requiresGrad: false });

/** One for each prompt batch; `reset` makes it empty again. */
export class KeyValueCache implements Disposable {
  /** Sequences side by side: B. */
  readonly batch: number;
  /** Tokens that fit: S. */
  readonly size: number;
  readonly #sizes: CacheSizes;
  /** Per layer [B·G, S, D]: what one query of a head looks at lies together. Made for a layer once it has something to keep. */
  readonly #layers: (CachedLayer | undefined)[] = [];
  /** [B, S]: 1 where a token stands, 0 for padding and what is still empty. */
  readonly #mask: Variable;
  /** []: tokens written so far, padding included. */
  readonly #length: Variable;
  /** By name, [B, ...]: what else is remembered of the text in each row. */
  readonly #notes = new Map<string, Variable>();
  /** Writes where it belongs, in the memory that is there, so that the programs which use it need no new addresses. */
  #clear: CompiledFunction<[], never[]> | null = null;
  #front: ((cache: KeyValueCache) => void) | null = null;
  /**
   * How long the text is taken to be, where a model's angles depend on it: all that there is room for, unless somebody
   * who knows more says so before tokens are taken in.
   */
  readonly reach: Setting<number>;

  /** By name: of other models that read the same texts. */
  readonly #beside = new Map<string, KeyValueCache>();

  constructor(sizes: CacheSizes, batch: number, size: number, reach = new Setting(size)) {
    requireKind("KeyValueCache", "an object", { sizes });
    const { layers, heads, headDim } = sizes;
    this.#sizes = sizes;
    requireKind("KeyValueCache", "a whole number from 0", { layers });
    requireKind("KeyValueCache", "a whole number from 1", { heads, headDim, batch, size });
    this.batch = batch;
    this.size = size;
    this.reach = reach;
    this.#mask = zeros([batch, size], "int32");
    this.#length = zeros([], "int32");
  }

  /** Forgets all tokens, and writes what stands in front of the next ones. */
  reset(): void {
    const clear = (this.#clear ??= compile(() => {
      const empty = (variable: Variable) => [variable, constant(0, variable.shape, variable.dtype)] as const;
      assignAll([this.#mask, this.#length, ...this.#notes.values()].map(empty));
      this.#front?.(this);
      return [];
    }));
    for (const other of this.#beside.values()) other.reset();
    clear();
    if (this.#clear !== clear) clear.dispose(); // it was traced before there was something that has to be emptied, too
  }

  /**
   * Writes what stands in front of every text into the cache while it is empty: virtual tokens. `reset` traces it once and runs it in one
   * program with the emptying.
   */
  set front(write: (cache: KeyValueCache) => void) {
    this.#front = write;
    this.#forgetClear();
  }

  /** Gives the memory back; the cache is of no use any more. */
  [Symbol.dispose](): void {
    const variables = [
      ...this.#layers.flatMap((layer) => (layer ? [layer.keys, layer.values] : [])),
      this.#mask,
      this.#length,
      ...this.#notes.values(),
    ];
    for (const { stored } of variables) stored.dispose();
    this.#forgetClear();
    for (const other of this.#beside.values()) other[Symbol.dispose]();
  }

  /** As large a cache for another model that reads the same texts; it is emptied and given back along with this one. */
  beside(name: string, sizes: CacheSizes): KeyValueCache {
    const known = this.#beside.get(name) ?? new KeyValueCache(sizes, this.batch, this.size, this.reach);
    this.#beside.set(name, known);
    return known;
  }

  /**
   * Takes over what a smaller one for the same texts holds, into memory of its own.
   *
   * @throws {ShapeError} when it is not smaller, or for another batch
   */
  takeOver(smaller: KeyValueCache): void {
    if (!(smaller instanceof KeyValueCache && smaller.batch === this.batch && smaller.size <= this.size))
      throw new ShapeError(`needs a cache of ${this.batch} rows and at most ${this.size} tokens.`, {
        operation: "takeOver",
        expected: [this.batch, this.size],
        got: smaller instanceof KeyValueCache ? [smaller.batch, smaller.size] : smaller,
      });
    const longer = ({ value }: Variable) => {
      const none = value.shape.map(() => 0);
      return pad(
        value,
        none,
        none.map((_, axis) => (axis === 1 ? this.size - smaller.size : 0)),
      );
    };
    const layers = smaller.#layers.flatMap((layer, i) => (layer ? [[this.layer(i), layer] as const] : []));
    const notes = [...smaller.#notes].map(([name, note]) => {
      const [, ...row] = note.shape;
      return [this.note(name, row, note.dtype as "float32" | "int32"), note.value] as const;
    });
    assignAll([
      ...layers.flatMap(([own, { keys, values }]) => [[own.keys, longer(keys)] as const, [own.values, longer(values)] as const]),
      ...notes,
      [this.#mask, longer(smaller.#mask)],
      [this.#length, smaller.#length.value],
    ]);
    for (const [name, other] of smaller.#beside) this.beside(name, other.#sizes).takeOver(other);
  }

  #forgetClear(): void {
    this.#clear?.dispose();
    this.#clear = null;
  }

  /** [B, ...row]: what is kept of each row along with the text, and is 0 again once that is forgotten. */
  note(name: string, row: readonly number[] = [], dtype: "float32" | "int32" = "int32"): Variable {
    const known = this.#notes.get(name);
    if (known) return known;
    const note = zeros([this.batch, ...row], dtype);
    this.#notes.set(name, note);
    this.#forgetClear();
    return note;
  }

  /**
   * Puts n virtual tokens in front of a text, before its first token is taken in.
   *
   * @param past keys and values [B, G, n, D] for each layer
   * @throws {ShapeError} when there is one for another number of layers, or of other sizes, or n is more than the cache holds
   */
  begin(past: readonly { readonly keys: Tensor; readonly values: Tensor }[]): void {
    const [B, G, n, D] = past[0]?.keys.shape ?? [];
    const { layers, heads, headDim } = this.#sizes;
    const fits = (x: Tensor) => sameShape(x.shape, [this.batch, heads, n!, headDim]);
    if (past.length !== layers || !past.every(({ keys, values }) => fits(keys) && fits(values)))
      throw new ShapeError(`a past of ${past.length} times ${wordShape([B!, G!, n!, D!])} does not fit.`, {
        operation: "KeyValueCache",
        expected: [layers, this.batch, heads, "n", headDim],
        got: past.map(({ keys }) => keys.shape),
      });
    const update = this.append(constant(1, [this.batch, n!], "int32"));
    const byTime = (x: Tensor) => permute(x, [0, 2, 1, 3]);
    for (const [layer, { keys, values }] of past.entries()) update.write(layer, byTime(keys), byTime(values));
    update.commit();
  }

  /** Keys and values of the first n tokens, [B, G, n, D] for each layer: what `begin` takes. */
  first(n: number): readonly { readonly keys: Tensor; readonly values: Tensor }[] {
    const of = ({ value }: Variable) => {
      const [, , D] = value.shape as [number, number, number];
      return reshape(sliceAxis(value, 1, 0, n), [this.batch, this.#sizes.heads, n, D]);
    };
    return Array.from({ length: this.#sizes.layers }, (_, i) => this.layer(i)).map(({ keys, values }) => ({
      keys: of(keys),
      values: of(values),
    }));
  }

  /**
   * Takes T more tokens in.
   *
   * @param mask [B, T], 1 for tokens, 0 for padding
   * @throws {ShapeError} when the batch is another or T is more than the cache holds. That earlier tokens leave room is the caller's to see to.
   */
  append(mask: Tensor): CacheUpdate {
    requireTensors("append", { mask });
    const [B, T] = mask.shape as [number, number];
    if (B !== this.batch || T > this.size)
      throw new ShapeError(`${wordShape([B, T])} tokens do not fit a cache of ${wordShape([this.batch, this.size])}.`, {
        operation: "KeyValueCache",
        expected: [this.batch, this.size],
        got: [B, T],
      });
    return new CacheUpdate(this, this.#mask, this.#length, cast(mask, "int32"));
  }

  /** Keys and values of a layer, [B·G, S, D] each. */
  layer(index: number): CachedLayer {
    const { heads, headDim } = this.#sizes;
    const empty = () => zeros([this.batch * heads, this.size, headDim], "float32");
    return (this.#layers[index] ??= { keys: empty(), values: empty() });
  }
}

/** What one forward pass writes; nothing is changed before `commit`. */
export class CacheUpdate {
  /** [B, S]: tokens there, the new ones included. */
  readonly mask: Tensor;
  /** []: place of the first new token. */
  readonly offset: Tensor;
  /** [B, T]: positions of the new tokens, padding not counted. */
  readonly positions: Tensor;
  readonly #cache: KeyValueCache;
  readonly #writes: [Variable, Tensor][] = [];

  constructor(cache: KeyValueCache, seen: Variable, length: Variable, mask: Tensor) {
    this.#cache = cache;
    this.offset = length.value;
    const before = reduceSum(seen.value, [1]); // [B, 1]
    this.positions = max(sub(add(before, cumsum(mask, 1)), whole(1)), whole(0));
    this.mask = this.#write(seen, mask);
    this.#writes.push([length, add(this.offset, sizeValue(mask.shape[1] as number))]);
  }

  /** Keys and values of one layer, [B, T, G, D] each, put behind those before; gives all of them, [B, S, G, D]. */
  write(layer: number, keys: Tensor, values: Tensor): { keys: Tensor; values: Tensor } {
    const own = this.#cache.layer(layer);
    const [B, T, G, D] = keys.shape as [number, number, number, number];
    const turn = [0, 2, 1, 3];
    const [k, v] = (
      [
        [own.keys, keys],
        [own.values, values],
      ] as const
    ).map(([variable, next]) => {
      const written = this.#write(variable, reshape(permute(next, turn), [B * G, T, D]));
      return permute(reshape(written, [B, G, -1, D]), turn);
    }) as [Tensor, Tensor];
    return { keys: k, values: v };
  }

  /**
   * What is kept of each row beside keys and values, by name: zeros [B, ...row] before the first token.
   *
   * @param next makes what is kept after this pass from what was kept so far
   */
  renew(name: string, row: readonly number[], next: (before: Tensor) => Tensor): void {
    const note = this.#cache.note(name, row, "float32");
    this.#writes.push([note, cast(next(note.value), "float32")]);
  }

  /** All new contents, for whoever wants to compute them together with something else. */
  get writes(): readonly (readonly [Variable, Tensor])[] {
    return this.#writes;
  }

  commit(): void {
    assignAll(this.#writes);
  }

  /** `variable` [B, S, ...] with `next` [B, T, ...] from `offset` on. */
  #write(variable: Variable, next: Tensor): Tensor {
    const written = place(variable.value, cast(next, variable.dtype), this.offset);
    this.#writes.push([variable, written]);
    return written;
  }
}
