/**
 * What generation needs besides a prompt: a key/value cache and the programs that fill it. They are kept for the next text
 * that fits, since tracing a model takes longer than a short text.
 */
import { currentDevice, upload } from "../compile/program.ts";
import { type CompiledFunction, compile } from "../compile/trace.ts";
import type { Device } from "../devices/device.ts";
import { reshape } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { structure } from "../graph/variable.ts";
import type { KeyValueCache } from "../models/cache.ts";
import type { CausalLM, ModelSizes } from "../models/causal-lm.ts";
import type { Answering, Seq2SeqLM } from "../models/seq2seq-lm.ts";

/** What a tokenizer gives, or a plain list. */
export type Tokens = readonly number[] | Int32Array;

/** A model that continues the prompt, or one that answers it. */
export type TextGenerator = CausalLM | Seq2SeqLM;

type Writer = Pick<CausalLM, "createCache" | "maxLength" | "forward">;
type Step = (inputIds: Tensor, attentionMask: Tensor) => Tensor;
type Reading = (inputIds: Tensor, attentionMask: Tensor) => [];
const originOf = (model: TextGenerator) => [structure.stored, "answering" in model ? model.answering : model.createCache];

/** What a session must have room for. */
export interface SessionSizes {
  /** Sequences side by side: B. */
  readonly batch: number;
  /** Tokens that are written, or read and continued. */
  readonly length: number;
  /** Tokens of the texts that an encoder reads; 0 without one. */
  readonly read: number;
  /** Whether the model is traced once, or anew for every token. */
  readonly compiled: boolean;
}

/** Programs of a session: one for each bucket of lengths, and again where settings such as adapters change. */
const mostPrograms = 24;

/** Lengths that share a program: 1, 2, 4, … 32, then multiples of 32. */
export const bucketOf = (length: number): number =>
  length <= 32 ? 2 ** Math.ceil(Math.log2(Math.max(1, length))) : Math.ceil(length / 32) * 32;

/** Tokens side by side, shorter lists padded with zeros in front or behind to `width`, and 1 where there is a token. */
function padded(lists: readonly Tokens[], width: number, side: "front" | "behind"): readonly [ids: Tensor, mask: Tensor] {
  const [ids, mask] = [new Int32Array(lists.length * width), new Int32Array(lists.length * width)];
  lists.forEach((list, row) => {
    const from = row * width + (side === "front" ? width - list.length : 0);
    ids.set(list, from);
    mask.fill(1, from, from + list.length);
  });
  const int32 = (values: Int32Array) => upload(currentDevice(), values, [lists.length, width], "int32");
  return [int32(ids), int32(mask)];
}

/** The memory and the programs of one batch of texts at a time. */
class Session {
  readonly cache: KeyValueCache;
  readonly #device: Device = currentDevice();
  readonly #sizes: SessionSizes;
  readonly #answering: Answering | null;
  readonly #stretch: ModelSizes["stretch"];
  readonly #write: Step;
  readonly #read: Reading | null;
  readonly #programs: Pick<CompiledFunction<[], Tensor>, "dispose">[] = [];
  /** What the session was made from: modules, and the way to make a cache. */
  readonly #origin: readonly unknown[];

  constructor(model: TextGenerator, sizes: SessionSizes) {
    const { batch, length, read, compiled } = sizes;
    this.#sizes = sizes;
    this.#origin = originOf(model);
    this.#stretch = model.backbone.sizes.stretch;
    const answering = "answering" in model ? model.answering(batch, read) : null;
    const writer: Writer = answering ?? (model as CausalLM);
    this.#answering = answering;
    // in steps, so that texts of like length share the kernels
    this.cache = writer.createCache(batch, Math.ceil(length / 32) * 32 + 32);
    const write: Step = (inputIds, attentionMask) => {
      const { logits } = writer.forward({ inputIds, attentionMask, cache: this.cache, logitsToKeep: 1 });
      return reshape(logits, [batch, -1]);
    };
    const reading: Reading = (inputIds, attentionMask) => {
      answering?.read({ inputIds, attentionMask });
      return [];
    };
    const run = <Result extends Tensor | []>(step: (inputIds: Tensor, attentionMask: Tensor) => Result): typeof step => {
      if (!compiled) return step;
      const program = compile(step, { mostPrograms });
      this.#programs.push(program);
      return program;
    };
    this.#write = run(write);
    this.#read = answering && run(reading);
  }

  /** Whether it can be used for texts of these sizes. */
  fits(model: TextGenerator, { batch, length, read, compiled }: SessionSizes): boolean {
    const own = this.#sizes;
    if (!originOf(model).every((part, i) => part === this.#origin[i])) return false;
    const isLike = own.batch === batch && own.read === read && own.compiled === compiled && this.#device === currentDevice();
    // attention looks at the whole cache: one that is far too large would be slow
    return isLike && own.length >= length && own.length <= 2 * length + 64;
  }

  /** Has an encoder read the texts. */
  read(texts: readonly Tokens[]): void {
    if (!this.#read) return;
    const [ids, mask] = padded(texts, this.#sizes.read, "behind");
    this.#read(ids, mask);
    for (const tensor of [ids, mask]) tensor.dispose();
  }

  /**
   * Says how long the longest text will be with the next tokens.
   *
   * @returns whether all its tokens are to be taken in: at the beginning, and when others turn by other angles from here on
   */
  growTo(length: number, isFirst: boolean): boolean {
    const { from = Number.POSITIVE_INFINITY, isAnew = false } = this.#stretch ?? {};
    const whole = isFirst || (isAnew && length === from + 1);
    if (whole && !isFirst) this.cache.reset();
    // one value for all later steps, so that they have one program
    this.cache.reach.value = length <= from ? 0 : whole && !isAnew ? length : Number.POSITIVE_INFINITY;
    return whole;
  }

  /** Takes tokens in, shorter lists padded in front to `width`. @returns logits of what comes next, [B, V] */
  write(lists: readonly Tokens[], width: number): Tensor {
    const [ids, mask] = padded(lists, width, "front");
    const logits = this.#write(ids, mask);
    for (const tensor of [ids, mask]) tensor.dispose();
    return logits;
  }

  dispose(): void {
    for (const program of this.#programs) program.dispose();
    this.#answering?.[Symbol.dispose]();
    this.cache[Symbol.dispose]();
  }
}

/** Of each model, those that nobody uses at the moment, the last one that was used behind. */
const idle = new WeakMap<TextGenerator, Session[]>();
const mostIdle = 2;

/** A session of one's own, its cache empty; put it back with `keepSession`, or dispose of it. */
export function takeSession(model: TextGenerator, sizes: SessionSizes): Session {
  const sessions = idle.get(model) ?? [];
  const at = sessions.findLastIndex((session) => session.fits(model, sizes));
  const session = at < 0 ? new Session(model, sizes) : (sessions.splice(at, 1)[0] as Session);
  session.cache.reset();
  return session;
}

/** Leaves a session to the next text of the model. */
export function keepSession(model: TextGenerator, session: Session): void {
  const sessions = [...(idle.get(model) ?? []), session];
  for (const old of sessions.splice(0, sessions.length - mostIdle)) old.dispose();
  idle.set(model, sessions);
}

export type { Session };
