/**
 * Rows of a table by index: `take` copies them, `scatterAdd` adds into them. Indices are known to be inside: the host has looked.
 * A task of `scatterAdd` owns a block of the table, goes through all indices and takes in what falls into it, so that every element is a sum
 * in the order of the indices whoever computes it.
 */
import { type Expression, load, ModuleBuilder } from "../../src/devices/wasm/assembler.ts";
import { beginKernel, type Integer, type KernelBuilder, numbered, smaller } from "./argument-block.ts";

/** The argument block of `take`. A task copies `block` rows of `rowBytes` bytes. */
export const takeArgument = numbered("table", "index", "out", "count", "rowBytes", "block");
/** The argument block of `scatterAdd`. A task owns `rowBlock` rows by `columnBlock` columns of the table of `rows` by `width`. */
export const scatterArgument = numbered(
  ...(["index", "updates", "out", "count", "rows", "width", "rowBlock", "columnBlock", "columnBlocks"] as const),
);

/** A module with one kernel, `take`; of rows of any element, since it copies bytes. */
export function takeModule(options: { readonly shared: boolean }): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder(options);
  const f = module.function("take", ["i32", "i32", "i32"]);
  const { task, integer, word } = beginKernel(f);
  const first = integer(["i32.mul", task, word(takeArgument.block)]);
  const left = integer(smaller(integer(["i32.sub", word(takeArgument.count), first]), integer(word(takeArgument.block))));
  const rowBytes = integer(word(takeArgument.rowBytes));
  const table = integer(word(takeArgument.table));
  const index = integer(["i32.add", word(takeArgument.index), ["i32.mul", first, 4]]);
  const to = integer(["i32.add", word(takeArgument.out), ["i32.mul", first, rowBytes]]);
  const from = integer();
  const rest = integer(["i32.and", rowBytes, 15]);
  const step = (bytes: Expression) => f.increment(from, bytes).increment(to, bytes);
  f.if(
    ["i32.eq", rowBytes, 4],
    () =>
      f.repeat(left, () => {
        f.store("i32.store", to, load("i32.load", ["i32.add", table, ["i32.mul", load("i32.load", index), 4]]));
        f.increment(index, 4).increment(to, 4);
      }),
    () =>
      f.repeat(left, () => {
        f.set(from, ["i32.add", table, ["i32.mul", load("i32.load", index), rowBytes]]);
        f.increment(index, 4);
        // first many at a time: where a loop of more than some ten rounds ends, the processor does not foresee
        const copy = (bytes: number) => {
          for (let at = 0; at < bytes; at += 16) f.store("v128.store", to, load("v128.load", from, at), at);
          step(bytes);
        };
        f.repeat(["i32.shr_u", rowBytes, 8], () => copy(256));
        f.repeat(["i32.and", ["i32.shr_u", rowBytes, 6], 3], () => copy(64));
        f.repeat(["i32.and", ["i32.shr_u", rowBytes, 4], 3], () => copy(16));
        f.if(rest, () => {
          f.if(
            ["i32.ge_u", rowBytes, 16],
            () => {
              // the last 16 bytes, some of them once more
              step(["i32.sub", rest, 16]);
              f.store("v128.store", to, load("v128.load", from));
              step(16);
            },
            () => {
              f.repeat(["i32.shr_u", rest, 2], () => {
                f.store("i32.store", to, load("i32.load", from));
                step(4);
              });
              f.repeat(["i32.and", rest, 3], () => {
                f.store("i32.store8", to, load("i32.load8_u", from));
                step(1);
              });
            },
          );
        });
      }),
  );
  return module.bytes();
}

/** A module with a function `anyOutside` (index, count, rows) → 1 where one of the indices is below 0 or not below `rows`, else 0. */
export function anyOutsideModule(options: { readonly shared: boolean }): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder(options);
  const f = module.function("anyOutside", ["i32", "i32", "i32"], ["i32"]);
  const [index, count, rows] = f.params;
  const end = f.local("v128", ["i32x4.splat", rows]);
  const outside = f.local("v128");
  const look = (op: "v128.load" | "v128.load32_splat", bytes: number) => {
    f.set(outside, ["v128.or", outside, ["i32x4.ge_u", load(op, index), end]]).increment(index, bytes);
  };
  f.repeat(["i32.shr_u", count, 2], () => look("v128.load", 16));
  f.repeat(["i32.and", count, 3], () => look("v128.load32_splat", 4));
  f.push(["v128.any_true", outside]);
  return module.bytes();
}

/** A module with one kernel, `scatterAdd`, of float32 or int32. */
export function scatterAddModule(type: "float32" | "int32", options: { readonly shared: boolean }): Uint8Array<ArrayBuffer> {
  const module = new ModuleBuilder(options);
  const f = module.function("scatterAdd", ["i32", "i32", "i32"]);
  const { task, integer, word } = beginKernel(f);
  const columnBlocks = integer(word(scatterArgument.columnBlocks));
  const firstRow = integer(["i32.mul", ["i32.div_u", task, columnBlocks], word(scatterArgument.rowBlock)]);
  const firstColumn = integer(["i32.mul", ["i32.rem_u", task, columnBlocks], word(scatterArgument.columnBlock)]);
  const width = integer(word(scatterArgument.width));
  const rows = integer(
    smaller(integer(word(scatterArgument.rowBlock)), integer(["i32.sub", word(scatterArgument.rows), firstRow])),
  );
  const columns = integer(smaller(integer(word(scatterArgument.columnBlock)), integer(["i32.sub", width, firstColumn])));
  const rowBytes = integer(["i32.mul", width, 4]);
  const columnOffset: Expression = ["i32.mul", firstColumn, 4];
  const out = integer(["i32.add", word(scatterArgument.out), ["i32.add", ["i32.mul", firstRow, rowBytes], columnOffset]]);
  const update = integer(["i32.add", word(scatterArgument.updates), columnOffset]);
  const index = integer(word(scatterArgument.index));
  const [to, from, row] = [integer(out), integer(), integer()];
  f.if(
    ["i32.eq", columns, width],
    () => f.memoryFill(out, 0, ["i32.mul", rows, rowBytes]),
    () =>
      f.repeat(rows, () => {
        f.memoryFill(to, 0, ["i32.mul", columns, 4]);
        f.increment(to, rowBytes);
      }),
  );
  f.repeat(word(scatterArgument.count), () => {
    f.set(row, ["i32.sub", load("i32.load", index), firstRow]);
    f.if(["i32.lt_u", row, rows], () => {
      f.set(to, ["i32.add", out, ["i32.mul", row, rowBytes]]).set(from, update);
      addRow(f, type, to, from, columns);
    });
    f.increment(index, 4).increment(update, rowBytes);
  });
  return module.bytes();
}

/** to[c] += from[c]; moves both pointers. */
function addRow(f: KernelBuilder, type: "float32" | "int32", to: Integer, from: Integer, columns: Integer): void {
  const vectors = (bytes: number) => {
    for (let at = 0; at < bytes; at += 16)
      f.store(
        "v128.store",
        to,
        [type === "float32" ? "f32x4.add" : "i32x4.add", load("v128.load", to, at), load("v128.load", from, at)],
        at,
      );
    f.increment(to, bytes).increment(from, bytes);
  };
  f.repeat(["i32.shr_u", columns, 4], () => vectors(64));
  f.repeat(["i32.and", ["i32.shr_u", columns, 2], 3], () => vectors(16));
  f.repeat(["i32.and", columns, 3], () => {
    if (type === "float32") f.store("f32.store", to, ["f32.add", load("f32.load", to), load("f32.load", from)]);
    else f.store("i32.store", to, ["i32.add", load("i32.load", to), load("i32.load", from)]);
    f.increment(to, 4).increment(from, 4);
  });
}
