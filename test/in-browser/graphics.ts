/** What the browser itself gives to a mode of the gpu device: contexts and devices, and the memory that was made and not given back. */

export interface Graphics {
  /** Things of the card that live, by their kind: textures and buffers, and of WebGL programs, shaders and framebuffers. */
  readonly living: () => Readonly<Record<string, number>>;
  /** Takes the device or the context away from those who use it, as a crash of the driver does. */
  readonly lose: () => void;
  /** The same, when so many more launches have been handed over: in the middle of what runs. */
  readonly loseAfter: (launches: number) => void;
  /** Stops watching. */
  readonly [Symbol.dispose]: () => void;
}

type Method = (this: object, ...args: unknown[]) => unknown;

/** Watches all that is made from now on. */
export function watchGraphics(mode: "webgl2" | "webgl" | "webgpu"): Graphics {
  const undo: (() => void)[] = [];
  const wrap = (on: object, name: string, around: (method: Method) => Method): void => {
    const before = Reflect.get(on, name) as Method;
    Reflect.set(on, name, around(before));
    undo.push(() => void Reflect.set(on, name, before));
  };
  const made = new Map<string, Set<unknown>>();
  /** Counts what `create` gives as living. */
  const counting = (kind: string, on: object, create: string): Set<unknown> => {
    const living = new Set<unknown>();
    made.set(kind, living);
    wrap(
      on,
      create,
      (method) =>
        function (...args) {
          const value = method.apply(this, args);
          living.add(value);
          return value;
        },
    );
    return living;
  };
  const losers: (() => void)[] = [];
  const lose = (): void => {
    for (const each of losers) each();
  };
  let launchesLeft = Number.POSITIVE_INFINITY;
  const launching = (on: object, name: string): void =>
    wrap(
      on,
      name,
      (method) =>
        function (...args) {
          const result = method.apply(this, args);
          if (--launchesLeft === 0) lose();
          return result;
        },
    );
  if (mode === "webgpu") {
    const living = counting("Buffer", GPUDevice.prototype, "createBuffer");
    wrap(
      GPUBuffer.prototype,
      "destroy",
      (method) =>
        function () {
          living.delete(this);
          return method.call(this);
        },
    );
    launching(GPUComputePassEncoder.prototype, "dispatchWorkgroups");
    const devices = new Set<GPUDevice>();
    wrap(
      GPUDevice.prototype,
      "createShaderModule",
      (method) =>
        function (...args) {
          devices.add(this as GPUDevice);
          return method.apply(this, args);
        },
    );
    losers.push(() => {
      for (const device of devices) device.destroy();
      devices.clear();
    });
  } else {
    const Context = mode === "webgl2" ? WebGL2RenderingContext : WebGLRenderingContext;
    for (const kind of ["Texture", "Buffer", "Framebuffer", "Program", "Shader"]) {
      const living = counting(kind, Context.prototype, `create${kind}`);
      wrap(
        Context.prototype,
        `delete${kind}`,
        (method) =>
          function (thing) {
            living.delete(thing);
            return method.call(this, thing);
          },
      );
    }
    launching(Context.prototype, "drawArrays");
    const contexts = new Set<WebGLRenderingContext>();
    for (const canvas of [HTMLCanvasElement.prototype, OffscreenCanvas.prototype])
      wrap(
        canvas,
        "getContext",
        (method) =>
          function (...args) {
            const context = method.apply(this, args);
            if (context instanceof Context) contexts.add(context as WebGLRenderingContext);
            return context;
          },
      );
    losers.push(() => {
      for (const context of contexts) if (!context.isContextLost()) context.getExtension("WEBGL_lose_context")!.loseContext();
      contexts.clear();
    });
  }
  return {
    living: () => Object.fromEntries([...made].map(([kind, living]) => [kind, living.size])),
    lose,
    loseAfter: (launches) => {
      launchesLeft = launches;
    },
    [Symbol.dispose]: () => {
      for (const each of undo.reverse()) each();
    },
  };
}
