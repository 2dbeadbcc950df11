/** Tensors that nobody holds any more and nobody disposed of: the collector is to be told how much memory hangs on them. */
import { expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { fromTypedArray } from "../../src/tensor/create.ts";
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
