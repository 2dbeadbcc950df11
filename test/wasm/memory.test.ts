import fc from "fast-check";
import { expect, test } from "vitest";
import { DeviceMemory, slackBytes } from "../../src/devices/wasm/memory.ts";
import { DeviceError } from "../../src/errors.ts";

test("buffers are aligned, apart from each other by the slack, and above the reserved addresses", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ bytes: fc.nat(5000), freed: fc.nat() }), { maxLength: 60 }),
      fc.boolean(),
      (steps, shared) => {
        const memory = new DeviceMemory({ shared, maximumBytes: 2 ** 24 });
        const live = new Map<number, number>();
        for (const { bytes, freed } of steps) {
          const address = memory.allocate(bytes);
          expect(address % 64).toBe(0);
          expect(address).toBeGreaterThanOrEqual(1024);
          for (const [other, size] of live)
            expect(address + bytes + slackBytes <= other || other + size + slackBytes <= address).toBe(true);
          live.set(address, bytes);
          expect(address + bytes + slackBytes).toBeLessThanOrEqual(memory.buffer.byteLength);
          const victim = [...live.keys()][freed % (2 * live.size)];
          if (victim !== undefined) {
            memory.free(victim);
            live.delete(victim);
          }
          const inUse = [...live.values()].reduce((sum, size) => sum + size, 0);
          expect(memory.statistics()).toMatchObject({ buffers: live.size, bytesInUse: inUse });
        }
        for (const address of live.keys()) memory.free(address);
        // everything merged again: one allocation of nearly all of it fits without growing
        const before = memory.statistics().memoryBytes;
        memory.allocate(before - 1024 - 64);
        expect(memory.statistics().memoryBytes).toBe(before);
      },
    ),
    { numRuns: 60 },
  );
});

test("memory grows on demand and keeps its contents", () => {
  for (const shared of [true, false]) {
    const memory = new DeviceMemory({ shared });
    const a = memory.allocate(16);
    memory.f32(a, 4).set([1, 2, 3, 4]);
    const b = memory.allocate(50_000_000);
    memory.u8(b, 50_000_000)[49_999_999] = 7;
    expect([...memory.f32(a, 4)]).toEqual([1, 2, 3, 4]);
    expect(memory.statistics().peakBytes).toBe(50_000_016);
    memory.free(b);
    expect(memory.statistics()).toMatchObject({ buffers: 1, bytesInUse: 16, peakBytes: 50_000_016 });
    memory.resetPeak();
    expect(memory.statistics().peakBytes).toBe(16);
  }
});

test("the smallest gap that fits is taken", () => {
  const memory = new DeviceMemory();
  const [large, , small] = [1000, 64, 200, 64].map((bytes) => memory.allocate(bytes));
  memory.free(large!);
  memory.free(small!);
  expect(memory.allocate(150)).toBe(small);
});

test("internal blocks are counted apart from buffers", () => {
  const memory = new DeviceMemory();
  const address = memory.allocate(100, "internal");
  expect(memory.statistics()).toMatchObject({ buffers: 0, bytesInUse: 0, internalBytes: 100 });
  memory.free(address);
  expect(memory.statistics().internalBytes).toBe(0);
});

test("exhausted memory names the sizes", () => {
  const memory = new DeviceMemory({ maximumBytes: 2 ** 20 });
  memory.allocate(1000);
  expect(() => memory.allocate(2 ** 20)).toThrow(DeviceError);
  expect(() => memory.allocate(2 ** 20)).toThrow(
    /^allocate: 1,048,576 bytes do not fit: 1,000 bytes of 1,048,576 bytes are in use, the largest gap has [\d,]+ bytes\. Dispose/,
  );
  expect(memory.allocate(2 ** 20 - 1024 - 1088 - 64)).toBeGreaterThan(0);
});

test("freeing what is not allocated is an error", () => {
  const memory = new DeviceMemory();
  const address = memory.allocate(8);
  memory.free(address);
  expect(() => memory.free(address)).toThrow(`free: nothing is allocated at address ${address}.`);
});
