/**
 * From where on in a text an adapter acts that is called by words in it (aLoRA): looked up in the tokens of each pass through the
 * model, and kept with the cache, since what is written after a prompt does not hold those words again.
 */
import { ShapeError, wordShape } from "../errors.ts";
import { add, and, cast, equal, less, where } from "../graph/elementwise.ts";
import { expand, pad, reshape, sliceAxis } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { reduceMax } from "../graph/reduction.ts";
import { constant, iota } from "../graph/source.ts";
import type { KeyValueCache } from "../models/cache.ts";
import { type TextInputs, textShape } from "../models/causal-lm.ts";

const whole = (value: number): Tensor => constant(value, [], "int32");
/** What is kept of a row: nothing was taken in yet, the words were not in what was taken in first, or they were. */
const [fresh, absent, invoked] = [0, 1, 2];

/** What a model is given, as far as adapters look at it. */
type ReadInputs = TextInputs & { readonly taskIds?: Tensor; readonly labels?: Tensor; readonly targets?: Tensor };

/** One pass of a model over texts, for the adapters that look at the words. */
export class Reading {
  readonly inputs: ReadInputs;
  /** What adapters hand from block to block, by something of theirs. */
  readonly carried = new WeakMap<object, Tensor>();
  /** What adapters add to the loss of this pass; nothing without labels. */
  readonly losses: Tensor[] = [];
  /** [B] int32: which task each text is for, if that stands beside it. */
  readonly taskIds: Tensor | undefined;
  readonly #found = new Map<string, Tensor>();
  readonly #kept: (() => void)[] = [];

  constructor(inputs: ReadInputs) {
    this.inputs = inputs;
    this.taskIds = inputs.taskIds;
  }

  /**
   * [B, T], 1 from where these tokens stand last in a row up to its end, else 0. With a cache the first tokens that it takes in decide
   * about all that follow.
   */
  since(tokens: readonly number[]): Tensor {
    const name = tokens.join();
    const found = this.#found.get(name) ?? this.#look(tokens, name);
    this.#found.set(name, found);
    return found;
  }

  /** Keeps what was found with the cache; for the end of the pass. */
  keep(): void {
    for (const each of this.#kept) each();
  }

  #look(tokens: readonly number[], name: string): Tensor {
    const { inputIds, cache } = this.inputs;
    const [B, T] = textShape(this.inputs);
    const start = inputIds ? lastPlace(inputIds, tokens) : constant(0, [B, 1], "int32"); // counted from 1
    const isThere = less(whole(0), start);
    const here = and(isThere, less(start, add(reshape(iota([T]), [1, T]), whole(2))));
    return cast(cache ? this.#withCache(cache, name, isThere, here) : here, "int32");
  }

  #withCache(cache: KeyValueCache, name: string, isThere: Tensor, here: Tensor): Tensor {
    const note = cache.note(`invocation ${name}`);
    const before = reshape(note.value, [cache.batch, 1]);
    const isFirst = equal(before, whole(fresh));
    const next = where(isFirst, where(isThere, whole(invoked), whole(absent)), before);
    this.#kept.push(() => note.assign(reshape(next, [cache.batch])));
    return where(isFirst, cast(here, "int32"), cast(expand(equal(before, whole(invoked)), here.shape), "int32"));
  }
}

/** [B, 1]: where the tokens begin last in each row of ids [B, T], counted from 1; 0 where they are not. */
function lastPlace(ids: Tensor, tokens: readonly number[]): Tensor {
  const [B, T] = ids.shape as [number, number];
  const starts = T - tokens.length + 1;
  if (starts < 1 || tokens.length === 0) return constant(0, [B, 1], "int32");
  const matches = tokens.map((token, i) => equal(sliceAxis(ids, 1, i, i + starts), whole(token)));
  const places = add(reshape(iota([starts]), [1, starts]), whole(1));
  return reduceMax(where(matches.reduce(and), expand(places, [B, starts]), whole(0)), [1]);
}

/**
 * What `since` gives, for a layer whose x [B, time, C] are other tokens than those of the pass: the last ones only, or with virtual ones
 * in front.
 *
 * @returns [B, time, 1]
 * @throws {ShapeError} when x is no batch of texts
 */
export function alignedWith(found: Tensor, x: Tensor, path: string): Tensor {
  const [B, T] = found.shape as [number, number];
  if (x.rank !== 3 || x.shape[0] !== B)
    throw new ShapeError(`${path} runs on ${wordShape(x.shape)}, which does not fit the words of ${B} texts.`, {
      operation: "alora",
      got: x.shape,
      expected: [B, "time", "channels"],
      hint: "Take it out with `excludeModules`.",
    });
  const time = x.shape[1] as number;
  const rows = time <= T ? sliceAxis(found, 1, T - time, T) : pad(found, [0, time - T], [0, 0]);
  return reshape(rows, [B, time, 1]);
}
