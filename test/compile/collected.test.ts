/** Tensors that nobody holds any more and nobody disposed of: the collector is to be told how much memory hangs on them. */
import { expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { Variable } from "../../src/graph/variable.ts";
import { fromTypedArray, tensor } from "../../src/tensor/create.ts";
import "../../src/tensor/methods.ts";

test("a loop that never disposes of a tensor keeps a few of them, not all", async () => {
  using device = createWasm({ threads: 1 });
  const before = useDevice(device);
  try {
    const values = new Float32Array(1 << 20);
    let most = 0;
    for (let i = 0; i < 80; i++) {
      await fromTypedArray(values, [values.length]).add(1).data();
      await new Promise(setImmediate); // what was collected is given back between two tasks
      most = Math.max(most, device.statistics.bytesInUse);
    }
    // 80 times two tensors of 4 MB are 640 MB
    expect(most).toBeLessThan(320e6);
  } finally {
    if (before) useDevice(before);
  }
});

test.each([
  ["large", 1 << 20, 400],
  ["small", 1 << 12, 60_000],
])("a loop that never awaits has its dropped tensors given back within the turn: %s ones", (_, size, rounds) => {
  // together they have 1.6 and 1 GB
  using device = createWasm({ threads: 1, maximumBytes: 64e6 });
  const before = useDevice(device);
  try {
    const values = new Float32Array(size).fill(1);
    const count = new Variable(tensor([0]));
    const increment = compile(() => {
      count.assign(count.value.add(1));
      return count.value;
    });
    const kept = fromTypedArray(values, [size]);
    for (let i = 0; i < rounds; i++) {
      fromTypedArray(values, [size]);
      // a variable's memory goes from one handle to the next, and is not free when the old one is gone
      if (i % 100 === 0) increment();
    }
    expect(count.value.toArray()).toEqual([rounds / 100]);
    expect(kept.sum().item()).toBe(size);
  } finally {
    if (before) useDevice(before);
  }
});
