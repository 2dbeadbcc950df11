/** A mode that cannot run says what is missing and how it comes here; Dawn, where it loads, becomes Node's `navigator.gpu`. */
import { afterEach, expect, test, vi } from "vitest";
import { type Dawn, provideWebGpu } from "../../src/devices/gpu/dawn.ts";
import { whyNoHeadlessGl } from "../../src/devices/gpu/gl-backend.ts";
import { DeviceError } from "../../src/errors.ts";

const navigator = Object.getOwnPropertyDescriptor(globalThis, "navigator");
afterEach(() => {
  if (navigator) Object.defineProperty(globalThis, "navigator", navigator);
  else delete (globalThis as { navigator?: unknown }).navigator;
  delete (globalThis.navigator as { gpu?: unknown } | undefined)?.gpu;
  delete (globalThis as { GPUThing?: unknown }).GPUThing;
  vi.restoreAllMocks();
});

const failing = (code: string, message: string) => async (): Promise<Dawn> => {
  throw Object.assign(new Error(message), { code });
};

test.each([
  ["MODULE_NOT_FOUND", "Cannot find module 'webgpu'", /package webgpu, which brings Dawn, is not installed\. npm install webgpu/],
  [
    "ERR_DLOPEN_FAILED",
    "/lib/libc.so.6: version `GLIBC_2.38' not found (required by dawn.node)",
    /needs GLIBC_2\.38, which this system's C library is too old for\. npm install webgpu@0\.6\.2/,
  ],
  [
    "ERR_DLOPEN_FAILED",
    "dawn.node: wrong ELF class\nand more",
    /the package webgpu does not load: dawn\.node: wrong ELF class\.$/,
  ],
])("why Dawn does not load: %s %s", async (code, message, words) => {
  const refused = provideWebGpu(failing(code, message));
  await expect(refused).rejects.toThrow(DeviceError);
  await expect(refused).rejects.toThrow(words);
  expect(globalThis.navigator?.gpu).toBeUndefined();
});

test("Dawn without a driver is refused, and nothing is installed", async () => {
  const dawn: Dawn = { create: () => ({ requestAdapter: async () => null }), globals: { GPUThing: 1 } };
  await expect(provideWebGpu(async () => dawn)).rejects.toThrow(/no driver that it can use\. It needs Vulkan/);
  expect(globalThis.navigator?.gpu).toBeUndefined();
  expect("GPUThing" in globalThis).toBe(false);
});

test.each([
  ["a version that takes an error handler", false],
  ["a version that does not", true],
])("Dawn becomes navigator.gpu: %s", async (_, refusing) => {
  const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
  const device = refusing
    ? Object.defineProperty({}, "onuncapturederror", {
        configurable: true,
        set() {
          throw new TypeError("object is not of the correct interface type");
        },
      })
    : { onuncapturederror: null };
  const adapter = () => ({ requestDevice: async () => device });
  const dawn: Dawn = { create: () => ({ requestAdapter: async () => adapter() }), globals: { GPUThing: 1 } };
  await provideWebGpu(async () => dawn);
  expect("GPUThing" in globalThis).toBe(true);
  const found = await (await globalThis.navigator.gpu.requestAdapter())!.requestDevice();
  found.onuncapturederror = () => {}; // as GPU.js does
  expect(warn).toHaveBeenCalledTimes(refusing ? 1 : 0);
  // a second time it is there already
  await provideWebGpu(failing("MODULE_NOT_FOUND", "not asked for"));
});

test("why there is no headless WebGL", () => {
  const missing = () => {
    throw Object.assign(new Error("Cannot find module 'gl'"), { code: "MODULE_NOT_FOUND" });
  };
  const broken = () => {
    throw new Error("libGL.so.1: cannot open shared object file\nmore");
  };
  expect(whyNoHeadlessGl(missing, undefined)).toMatch("the package gl is not installed (npm install gl@8.1.6)");
  expect(whyNoHeadlessGl(() => ({}), ":0")).toMatch("is not installed"); // the empty package that stands in for it
  expect(whyNoHeadlessGl(broken, ":0")).toBe("the package gl does not load: libGL.so.1: cannot open shared object file");
  expect(whyNoHeadlessGl(() => () => null, "")).toContain("needs an X display, and there is none (xvfb-run");
  expect(whyNoHeadlessGl(() => () => null, ":7")).toContain("no OpenGL context from the display :7");
});
