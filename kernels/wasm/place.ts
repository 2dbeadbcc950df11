/** Rows put into a table: [B, T, row] into [B, S, row] from a position on. Stands for `place` of graph/placement.ts. */
import { load, ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { beginKernel, type Integer, numbered, smaller } from "./argument-block.ts";
import { larger } from "./attention-task.ts";

/** The argument block; `offset` is the address of the position. */
export const argument = numbered("table", "rows", "offset", "out", "B", "S", "T", "rowBytes");

/** A module with one kernel, `place`. It has one task. */
export function placeModule(options: { readonly shared: boolean }): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder(options);
  const f = module.function("place", ["i32", "i32", "i32"]);
  const { integer, word } = beginKernel(f);
  const [table, rows, out, B, S, T, rowBytes] = (["table", "rows", "out", "B", "S", "T", "rowBytes"] as const).map((name) =>
    integer(word(argument[name])),
  ) as [Integer, Integer, Integer, Integer, Integer, Integer, Integer];
  const tableBytes = integer(["i32.mul", S, rowBytes]);
  const rowsBytes = integer(["i32.mul", T, rowBytes]);
  f.if(["i32.ne", table, out], () => f.memoryCopy(out, table, ["i32.mul", B, tableBytes]));

  // the part of the rows that is inside: row i goes to offset + i
  const offset = integer(load("i32.load", integer(word(argument.offset))));
  const from = integer(["i32.sub", 0, offset]);
  const to = integer(["i32.sub", S, offset]);
  f.set(from, larger(from, 0)).set(to, smaller(to, T));
  f.if(["i32.lt_s", from, to], () => {
    f.increment(rows, ["i32.mul", from, rowBytes]);
    f.increment(out, ["i32.mul", ["i32.add", offset, from], rowBytes]);
    const bytes = integer(["i32.mul", ["i32.sub", to, from], rowBytes]);
    f.repeat(B, () => {
      f.memoryCopy(out, rows, bytes);
      f.increment(rows, rowsBytes).increment(out, tableBytes);
    });
  });
  return module.bytes();
}
