/** Modes `webgl2`, `webgl` and `headlessgl`: handles are textures, calls return at once, reading waits for what it reads. */
import * as functions from "../../../kernels/gpu/math.ts";
import { DeviceError } from "../../errors.ts";
import { nodeModule } from "../wasm/features.ts";
import {
  type AdapterKind,
  type Backend,
  called,
  checkMode,
  type GpuInstance,
  type GpuJs,
  type GpuKernel,
  type GpuMode,
  type Handle,
  KernelCache,
  kernelSettings,
  softwareNames,
} from "./backend.ts";
import type { Drawings } from "./gl-drawing.ts";
import { mendedShader } from "./gl-shader.ts";
import { canDraw, type FlatTexture, unpackFours, WebGl1Drawings } from "./gl1-drawing.ts";
import { WebGl2Drawings } from "./gl2-drawing.ts";
import type { GlKernel, GlTexture, TextureOwner } from "./gpujs-internals.ts";
import { exactIn32Bits } from "./limits.ts";
import { countsOf, type Pass } from "./plan.ts";

type GlMode = GpuMode & ("webgl2" | "webgl" | "headlessgl");

/** Every kernel of GPU.js keeps its last result until it runs again, so their number is bounded. */
export const kernelsKept: { readonly most: number; readonly mostOfAll: number } = { most: 512, mostOfAll: 4096 };

const whyNoWebGl = (): string =>
  nodeModule("module")
    ? "only browsers have WebGL; Node has mode headlessgl"
    : "this browser has no WebGL, or has it switched off";

/** @param load gives the package `gl` as GPU.js finds it */
export function whyNoHeadlessGl(
  load: (() => unknown) | undefined = nodeModule<typeof import("node:module")>("module")
    ? () => nodeModule<typeof import("node:module")>("module")!.createRequire(import.meta.url)("gl")
    : undefined,
  display: string | undefined = globalThis.process?.env?.["DISPLAY"],
): string {
  if (!load) return "it is for Node; browsers have webgl2";
  try {
    if (typeof load() !== "function") return "the package gl is not installed (npm install gl@8.1.6)";
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === "MODULE_NOT_FOUND" && /'gl'/.test(message)) return "the package gl is not installed (npm install gl@8.1.6)";
    return `the package gl does not load: ${message.split("\n")[0]}`;
  }
  return display
    ? `the package gl gets no OpenGL context from the display ${display}`
    : "the package gl needs an X display, and there is none (xvfb-run gives one)";
}

/** Mends GPU.js's shader where it is slow. */
function mend(kernel: GlKernel): void {
  const write = kernel.getFragmentShader;
  kernel.getFragmentShader = function (args) {
    const columns = this.argumentNames.flatMap((name, i): [string, number][] => {
      const { columns } = args[i] as FlatTexture;
      return columns ? [[name, columns]] : [];
    });
    return (this.compiledFragmentShader = mendedShader(write.call(this, args), this.texSize, new Map(columns)));
  };
}

/** What a context draws with, in the words of its driver. */
function rendererOf(gl: WebGLRenderingContext | null | undefined): string {
  const names = gl?.getExtension("WEBGL_debug_renderer_info");
  return String(gl?.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
}

/** @throws {DeviceError} saying what is missing here */
function requireMode({ GPU }: GpuJs, mode: GlMode): void {
  const supported = { webgl2: GPU.isWebGL2Supported, webgl: GPU.isWebGLSupported, headlessgl: GPU.isHeadlessGLSupported };
  if (!supported[mode])
    throw new DeviceError(`mode ${mode} cannot run: ${mode === "headlessgl" ? whyNoHeadlessGl() : whyNoWebGl()}.`, {
      operation: "gpu",
      got: mode,
    });
  if (!GPU.isSinglePrecisionSupported)
    throw new DeviceError(`mode ${mode} cannot run: this GPU writes no 32-bit floats.`, { operation: "gpu", got: mode });
}

/** Results that one shader may have. */
function resultsOf(gl: WebGLRenderingContext | null | undefined, mode: GlMode): number {
  if (mode !== "webgl2" || !gl) return 1;
  const limit = (name: string): number => gl.getParameter(gl[name as "MAX_TEXTURE_SIZE"]) || 4;
  return Math.min(limit("MAX_DRAW_BUFFERS"), limit("MAX_COLOR_ATTACHMENTS"));
}

/** The same texture, indexed by row and column. */
const shaped = (raw: unknown, row: number, rows: number): unknown =>
  Object.assign(Object.create(raw as GlTexture), {
    type: (raw as GlTexture).type,
    output: [row, rows],
    dimensions: [row, rows, 1],
  });

/** The kernel that puts values into textures, one for all lengths: compiling one takes longer than most uploads. */
const createUploader = (gpu: GpuInstance, length: number): GpuKernel =>
  gpu.createKernel("function (a) { return a[this.thread.x]; }", {
    output: [length],
    precision: "single",
    tactic: "precision",
    pipeline: true,
    immutable: true,
    dynamicOutput: true,
    dynamicArguments: true,
  });

/**
 * What a value asks its kernel for: GPU.js asks the one that made it, which may have made room for others by now, and then has no
 * context to read it with or to delete it from.
 */
function ownerOf(gpu: GpuInstance): TextureOwner {
  let framebuffer: WebGLFramebuffer | null = null;
  const context = () => gpu.context as WebGLRenderingContext;
  return {
    deleteTexture: (texture) => context().deleteTexture(texture),
    getRawValueFramebuffer: () => (framebuffer ??= context().createFramebuffer()),
  };
}

/**
 * Corners of what is drawn, which are the same for all. GPU.js gives each kernel a buffer of its own, says only when it builds one which
 * is read, and deletes that with the kernel: whoever runs next would draw nothing.
 */
interface Corners {
  buffer: WebGLBuffer | null;
}

function createKernel(gpu: GpuInstance, pass: Pass, mode: GlMode, corners: Corners): GpuKernel {
  const made = gpu.createKernel(pass.source, kernelSettings(pass, functions));
  const kernel = made.kernel as unknown as GlKernel;
  kernel.buffer = corners.buffer;
  const { destroy } = made;
  made.destroy = () => {
    if (kernel.buffer === corners.buffer) kernel.buffer = null;
    destroy();
  };
  if (mode !== "headlessgl") mend(kernel);
  return made;
}

/** @throws {DeviceError} saying what is missing here */
export function createGlBackend(library: GpuJs, mode: GlMode, adapter?: AdapterKind, kept = kernelsKept): Backend {
  requireMode(library, mode);
  const gpu = new library.GPU({ mode });
  const { testContext, features } = gpu.Kernel;
  let lost = false;
  let destroyed = false;
  gpu.canvas?.addEventListener?.("webglcontextlost", () => {
    lost = true;
  });
  const checkAlive = (): void => {
    if (lost || (gpu.context as WebGLRenderingContext | null)?.isContextLost?.())
      throw new DeviceError("the WebGL context was lost.", {
        operation: "gpu",
        hint: "Values on it are gone: open the device anew and go on from the last checkpoint.",
      });
  };
  const owner = ownerOf(gpu);
  let handles = 0;
  const made = (raw: unknown, count: number): Handle => {
    handles++;
    return { count, references: 1, raw, columns: (raw as FlatTexture).columns };
  };
  const draws = mode === "webgl2" || (mode === "webgl" && canDraw(testContext));
  const corners: Corners = { buffer: null };
  const kernels = new KernelCache(kept.most, kept.mostOfAll, (pass) => {
    const drawn = drawings?.kernelFor(pass); // whatever is drawn reads something that was uploaded once
    return drawn ?? createKernel(gpu, pass, mode, corners);
  });
  let drawings: Drawings | null = null;
  /** A value that is to be read by row and column has an element a texel. */
  const flatten = (handle: Handle): void => {
    const rows = handle.raw as FlatTexture;
    handle.raw = kernels.get(unpackFours(handle.count), [handle])(rows);
    handle.columns = undefined;
    rows.delete();
  };
  let uploader: GpuKernel | null = null;

  const backend: Backend = {
    mode,
    // texture units, less the one that is written; every device has these, if the context that was asked is lost
    inputs: (testContext?.getParameter(testContext.MAX_TEXTURE_IMAGE_UNITS) || (mode === "webgl2" ? 16 : 8)) - 1,
    // a value is a texture that is nearly a square; whole numbers are floats in WebGL 1
    limit: mode === "webgl2" ? features.maxTextureSize ** 2 : exactIn32Bits,
    exact: exactIn32Bits,
    results: resultsOf(testContext, mode),
    visible: false,
    draws,
    software: adapter ? adapter === "software" : softwareNames.test(rendererOf(testContext)),
    upload(values) {
      checkAlive();
      uploader ??= createUploader(gpu, values.length);
      uploader.setOutput([values.length]);
      const raw = uploader(values) as GlTexture;
      raw.kernel = owner;
      if (draws)
        drawings ??= new (mode === "webgl2" ? WebGl2Drawings : WebGl1Drawings)(raw, uploader.kernel as unknown as GlKernel);
      return made(raw, values.length);
    },
    run(pass, args) {
      checkAlive();
      pass.args.forEach((wanted, i) => {
        if (wanted.kind !== "number" && wanted.row && (args[i] as Handle).columns) flatten(args[i] as Handle);
      });
      const kernel = kernels.get(pass, args);
      const raws = [kernel(...called(pass, args, shaped))].flat() as GlTexture[];
      checkMode(kernel, mode);
      // a kernel of GPU.js deletes the first texture that it made when it goes, whoever holds it
      const { textureCache, buffer } = kernel.kernel as unknown as Partial<GlKernel>;
      if (textureCache) {
        corners.buffer ??= buffer ?? null;
        textureCache.length = 0;
        raws[0]!.kernel = owner;
      }
      return countsOf(pass).map((count, i) => made(raws[i], count));
    },
    readSync(handle) {
      checkAlive();
      return (handle.raw as GlTexture).toArray();
    },
    read: async (handle) => backend.readSync!(handle),
    free(handle) {
      handles--;
      // its textures went with the context, and that of gl throws when it is asked afterwards
      if (!lost && !destroyed) (handle.raw as GlTexture).delete();
      handle.raw = null;
    },
    get statistics() {
      return { kernels: kernels.size, compilations: kernels.compilations, handles };
    },
    async destroy() {
      kernels.clear();
      destroyed = true;
      await gpu.destroy();
    },
  };
  return backend;
}
