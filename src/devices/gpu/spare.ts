/** Memory of the card that nobody holds any more, kept for whoever needs some of its size next: what is new is filled with zeros first. */

/** Things by a size, given back and taken again, up to a total. */
export class Spare<Thing> {
  /** What is asked for stays; kinds that were asked for longest ago come first, and go first. */
  readonly #kinds = new Map<string | number, { readonly bytes: number; readonly things: Thing[] }>();
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
    const kept = this.#kinds.get(kind);
    if (kept) kept.things.push(thing);
    else this.#kinds.set(kind, { bytes, things: [thing] });
    this.#bytes += bytes;
    this.#things++;
    this.#shrink(this.#most);
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
