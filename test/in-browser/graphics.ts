/** What the browser itself gives to a mode of the gpu device: contexts and devices, and the memory that was made and not given back. */

export interface Graphics {
  /** Textures or buffers of the card that live. */
  readonly living: () => number;
  /** Takes the device or the context away from those who use it, as a crash of the driver does. */
  readonly lose: () => void;
  /** Stops watching. */
  readonly [Symbol.dispose]: () => void;
}

type Method = (this: object, ...args: unknown[]) => unknown;

/** Watches all that is made from now on. */
export function watchGraphics(mode: "webgl2" | "webgpu"): Graphics {
  const undo: (() => void)[] = [];
  const wrap = (on: object, name: string, around: (method: Method) => Method): void => {
    const before = Reflect.get(on, name) as Method;
    Reflect.set(on, name, around(before));
    undo.push(() => void Reflect.set(on, name, before));
  };
  const made = new Set<unknown>();
  const counting = (on: object, create: string): void =>
    wrap(
      on,
      create,
      (method) =>
        function (...args) {
          const value = method.apply(this, args);
          made.add(value);
          return value;
        },
    );
  const losers: (() => void)[] = [];
  if (mode === "webgl2") {
    counting(WebGL2RenderingContext.prototype, "createTexture");
    wrap(
      WebGL2RenderingContext.prototype,
      "deleteTexture",
      (method) =>
        function (texture) {
          made.delete(texture);
          return method.call(this, texture);
        },
    );
    const contexts = new Set<WebGL2RenderingContext>();
    for (const canvas of [HTMLCanvasElement.prototype, OffscreenCanvas.prototype])
      wrap(
        canvas,
        "getContext",
        (method) =>
          function (...args) {
            const context = method.apply(this, args);
            if (context instanceof WebGL2RenderingContext) contexts.add(context);
            return context;
          },
      );
    losers.push(() => {
      for (const context of contexts) if (!context.isContextLost()) context.getExtension("WEBGL_lose_context")!.loseContext();
      contexts.clear();
    });
  } else {
    counting(GPUDevice.prototype, "createBuffer");
    wrap(
      GPUBuffer.prototype,
      "destroy",
      (method) =>
        function () {
          made.delete(this);
          return method.call(this);
        },
    );
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
  }
  return {
    living: () => made.size,
    lose: () => {
      for (const lose of losers) lose();
    },
    [Symbol.dispose]: () => {
      for (const each of undo.reverse()) each();
    },
  };
}
