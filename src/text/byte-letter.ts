/** How byte-level tokenizers write bytes. */

/** GPT-2's letter for each byte: printable bytes are themselves, the others the letters from U+0100 on. */
export function byteLetters(): string[] {
  const printable = (byte: number) => (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => String.fromCharCode(printable(byte) ? byte : next++));
}
