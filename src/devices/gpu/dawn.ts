/**
 * WebGPU for Node: Dawn, Chromium's own implementation, from the optional package `webgpu`. GPU.js looks for `navigator.gpu`, as
 * pages have it, and installs nothing.
 */
import { DeviceError } from "../../errors.ts";
import { nodeModule } from "../wasm/features.ts";

/** What we use of the package `webgpu`. */
export interface Dawn {
  create(options: readonly string[]): { requestAdapter(options?: object): Promise<Adapter | null> };
  readonly globals: object;
}

interface Adapter {
  requestDevice(descriptor?: object): Promise<object>;
}

const loadDawn = async (): Promise<Dawn> =>
  // looked up by Node, not imported: no bundler must look for it, as browsers have WebGPU of their own
  nodeModule<typeof import("node:module")>("module")!.createRequire(import.meta.url)("webgpu");

/**
 * Sees to it that there is a `navigator.gpu` with an adapter, in Node by way of Dawn. Changes nothing where there is one.
 *
 * @param load gives the package `webgpu`
 * @throws {DeviceError} saying what is missing and how it comes here
 */
export async function provideWebGpu(load: () => Promise<Dawn> = loadDawn): Promise<void> {
  const refuse = (why: string, hint?: string) =>
    new DeviceError(`mode webgpu cannot run: ${why}.`, { operation: "gpu", got: "webgpu", ...(hint && { hint }) });
  if (globalThis.navigator?.gpu) return;
  if (!nodeModule("module"))
    throw globalThis.isSecureContext === false
      ? refuse("browsers have WebGPU only in pages from https or localhost")
      : refuse("this browser has no navigator.gpu");
  let dawn: Dawn;
  try {
    dawn = await load();
  } catch (error) {
    throw refuse(...wordLoadError(error));
  }
  const gpu = dawn.create([]);
  if (!(await gpu.requestAdapter()))
    throw refuse(
      "Dawn found no driver that it can use",
      "It needs Vulkan: the graphics card's own driver, or Mesa 25's in software (Debian 13: apt-get install mesa-vulkan-drivers).",
    );
  Object.assign(globalThis, dawn.globals);
  // as Node 21 has it
  if (!globalThis.navigator)
    Object.defineProperty(globalThis, "navigator", {
      configurable: true,
      value: { userAgent: `Node.js/${process.versions.node.split(".")[0]}` },
    });
  Object.defineProperty(globalThis.navigator, "gpu", {
    configurable: true,
    value: {
      requestAdapter: async (options?: object) => withErrorHandler(await gpu.requestAdapter(options)),
      getPreferredCanvasFormat: () => "rgba8unorm",
    },
  });
}

/**
 * GPU.js sets `device.onuncapturederror`. webgpu@0.2.9, the version that it depends on, takes no functions there, and looks after its
 * queue in the background for as long as there is a `navigator.gpu`.
 */
function withErrorHandler(adapter: Adapter | null): Adapter | null {
  if (!adapter) return null;
  const request = adapter.requestDevice.bind(adapter);
  adapter.requestDevice = async (descriptor) => {
    const device = await request(descriptor);
    try {
      (device as { onuncapturederror: unknown }).onuncapturederror = () => {};
    } catch {
      Object.defineProperties(device, {
        onuncapturederror: { configurable: true, set() {}, get: () => null },
        addEventListener: { configurable: true, value() {} },
      });
      console.warn(
        "lorikeet: this old version of the package webgpu keeps a process from ending: end it with process.exit(), or npm install webgpu@0.6.2",
      );
    }
    return device;
  };
  return adapter;
}

/** Why the package does not load, and the way out. */
function wordLoadError(error: unknown): [why: string, hint?: string] {
  const { code, message } = error as NodeJS.ErrnoException;
  if (code === "ERR_MODULE_NOT_FOUND" || code === "MODULE_NOT_FOUND")
    return ["Node has no WebGPU of its own, and the package webgpu, which brings Dawn, is not installed", "npm install webgpu"];
  const missing = /version `((?:GLIBC|GLIBCXX|CXXABI)_[\d.]+)' not found/.exec(message ?? "")?.[1];
  if (missing)
    return [
      `the package webgpu needs ${missing}, which this system's C library is too old for`,
      "npm install webgpu@0.6.2 runs on older systems, or take a newer one (Debian 13, Ubuntu 24.04).",
    ];
  return [`the package webgpu does not load: ${String(message ?? error).split("\n")[0]}`];
}
