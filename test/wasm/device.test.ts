/** Which device people get who choose none, and what it says when it cannot be used. */
import { afterEach, describe, expect, test, vi } from "vitest";
import { createWasm, type Device, DeviceError, defaultDevice, tensor, useDevice } from "../../src/index.ts";

afterEach(() => void vi.unstubAllEnvs());

describe("the device of people who choose none", () => {
  test("is wasm", () => {
    using device = defaultDevice({ threads: 1 });
    expect(device.about).toBe("wasm: 1 thread, relaxed SIMD, shared memory");
  });

  test("is the reference device, with a message, where wasm cannot run", () => {
    const { WebAssembly } = globalThis;
    const told: string[] = [];
    let device: Device;
    try {
      Reflect.set(
        globalThis,
        "WebAssembly",
        new Proxy(WebAssembly, { get: (target, key) => (key === "Memory" ? undefined : Reflect.get(target, key)) }),
      );
      device = defaultDevice({}, (message) => told.push(message));
    } finally {
      Reflect.set(globalThis, "WebAssembly", WebAssembly);
    }
    expect(device.name).toBe("reference");
    expect(told).toHaveLength(1);
    expect(told[0]).toMatch(/^lorikeet: computing on the slow reference device: /);
  });

  test("is nothing where the settings are wrong: that is to be mended", () => {
    vi.stubEnv("LORIKEET_THREADS", "two");
    expect(() => defaultDevice()).toThrow("wasm: LORIKEET_THREADS (= two) must be a positive integer.");
  });
});

test("tensors of two devices do not meet by themselves, also when both are wasm", () => {
  using first = createWasm({ threads: 1 });
  using second = createWasm({ threads: 1 });
  useDevice(first);
  const x = tensor([1, 2]);
  useDevice(second);
  const y = tensor([3, 4]);
  const act = () => x.add(y).dataSync();
  expect(act).toThrow(DeviceError);
  expect(act).toThrow(
    /run: a tensor of \[2\] lies on (the current|another) wasm device, the others on (the current|another) wasm device\. Move it with x\.to\(device\)\./,
  );
  expect(x.to(second).add(y).toArray()).toEqual([4, 6]);
});
