/** Bytes of a WebAssembly module while it is written. */

/** Bytes that grow as needed. */
export class ByteBuffer {
  bytes = new Uint8Array(512);
  length = 0;

  reserve(more: number): void {
    if (this.length + more <= this.bytes.length) return;
    const grown = new Uint8Array(Math.max(2 * this.bytes.length, this.length + more));
    grown.set(this.bytes.subarray(0, this.length));
    this.bytes = grown;
  }

  byte(value: number): void {
    if (this.length === this.bytes.length) this.reserve(1);
    this.bytes[this.length++] = value;
  }

  append(values: ArrayLike<number>): void {
    this.reserve(values.length);
    this.bytes.set(values, this.length);
    this.length += values.length;
  }

  /** LEB128 without sign. */
  unsigned(value: number): void {
    let rest = value >>> 0;
    for (; rest > 0x7f; rest >>>= 7) this.byte((rest & 0x7f) | 0x80);
    this.byte(rest);
  }

  /** LEB128 with sign. */
  signed(value: number): void {
    let rest = value | 0;
    while (rest < -64 || rest > 63) {
      this.byte((rest & 0x7f) | 0x80);
      rest >>= 7;
    }
    this.byte(rest & 0x7f);
  }

  text(value: string): void {
    const encoded = new TextEncoder().encode(value);
    this.unsigned(encoded.length);
    this.append(encoded);
  }

  /** An instruction number as `opcodes.ts` writes it: one byte, or prefix · 0x1000 + number. */
  opcode(number: number): void {
    if (number < 0x100) this.byte(number);
    else {
      this.byte(number >>> 12);
      this.unsigned(number & 0xfff);
    }
  }

  view(): Uint8Array {
    return this.bytes.subarray(0, this.length);
  }
}
