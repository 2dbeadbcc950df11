import { afterAll, beforeAll, expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { ones } from "../../src/tensor/create.ts";
import "../../src/tensor/methods.ts";

let device: Device;
beforeAll(async () => void useDevice((device = await createWasm({ threads: 1 }))));
afterAll(() => device[Symbol.dispose]());

// data() alone is no turn of the event loop, and without one no finaliser runs: all of it was kept
test("a loop that awaits values gives back what it drops", async () => {
  const [rounds, size] = [1200, 1 << 16];
  for (let i = 0; i < rounds; i++) expect((await ones([size]).mul(i).data())[0]).toBe(i);
  expect(device.statistics.peakBytes).toBeLessThan((rounds * size * 4) / 2);
});
