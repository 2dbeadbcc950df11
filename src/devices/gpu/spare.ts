/** Memory of the card that nobody holds any more, kept for whoever needs some of its size next: what is new is filled with zeros first. */

/**
 * Things by a size, given back and taken again, up to a total. Of those there are, the one that came here first is taken: a program that
 * takes and gives back the same again and again gets the same things each time, in whatever order it gives them back.
 */
export class Spare<Thing extends object> {
  /** What is asked for stays; kinds that were asked for longest ago come first, and go first. */
  readonly #kinds = new Map<string | number, { readonly bytes: number; readonly things: Thing[] }>();
  /** The order in which they came here first. */
  readonly #numbers = new WeakMap<Thing, number>();
  #next = 0;
  #bytes = 0;
  #things = 0;
  readonly #most: { readonly bytes: number; readonly things: number };
  readonly #drop: (thing: Thing) => void;

  /**
   * @param most what is kept, in bytes and in things, each of which takes memory of the driver as well
   * @param drop frees what is kept no longer
   */
  constructor(most: { readonly bytes: number; readonly things: number }, drop: (thing: Thing) => void) {
    this.#most = most;
    this.#drop = drop;
  }

  take(kind: string | number): Thing | undefined {
    const kept = this.#kinds.get(kind);
    if (!kept) return undefined;
    this.#kinds.delete(kind);
    if (kept.things.length > 1) this.#kinds.set(kind, kept);
    this.#bytes -= kept.bytes;
    this.#things--;
    return kept.things.pop();
  }

  /** @param bytes that each thing of the kind takes */
  give(kind: string | number, thing: Thing, bytes: number): void {
    if (!this.#numbers.has(thing)) this.#numbers.set(thing, this.#next++);
    const kept = this.#kinds.get(kind);
    if (kept) this.#insert(thing, kept.things);
    else this.#kinds.set(kind, { bytes, things: [thing] });
    this.#bytes += bytes;
    this.#things++;
    this.#shrink(this.#most);
  }

  /** Puts a thing behind those that came here after it: the last is taken. */
  #insert(thing: Thing, things: Thing[]): void {
    const numberOf = (one: Thing): number => this.#numbers.get(one)!;
    let [from, to] = [0, things.length];
    while (from < to) {
      const middle = (from + to) >> 1;
      if (numberOf(things[middle]!) > numberOf(thing)) from = middle + 1;
      else to = middle;
    }
    things.splice(from, 0, thing);
  }

  clear(): void {
    this.#shrink({ bytes: 0, things: 0 });
  }

  #shrink(most: { readonly bytes: number; readonly things: number }): void {
    for (const [kind, { bytes, things }] of this.#kinds) {
      while (things.length && (this.#bytes > most.bytes || this.#things > most.things)) {
        this.#bytes -= bytes;
        this.#things--;
        this.#drop(things.pop()!);
      }
      if (things.length) return;
      this.#kinds.delete(kind);
    }
  }
}
