/** The factor on an adapter's share of a layer: what `setScale` sets. */
import { upload } from "../compile/program.ts";
import type { Buffer, Device } from "../devices/device.ts";
import { requireKind } from "../errors.ts";
import { mul } from "../graph/elementwise.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { constant } from "../graph/source.ts";
import { isObserved, Setting, Variable } from "../graph/variable.ts";

/** A number, or in a traced program a float32 scalar [] on the device, so that the program goes on with other values of it. */
export type Scale = number | Tensor;

/** A number times a scale: `product(scaling(c), use.scale)`. */
export const product = (factor: number, scale: Scale): Scale => {
  requireKind("product", "a number", { factor });
  if (typeof scale === "number") return factor * scale;
  requireTensors("product", { scale });
  return factor === 1 ? scale : mul(scale, constant(factor));
};

/**
 * One adapter's scale in one layer. Until it is set for the first time it is the number 1, which programs are simplified with;
 * from then on they read it from the device, and the next values do not compile them again.
 */
export class LayerScale {
  readonly #live = new Setting<Variable | null>(null);
  #stored = 1;

  /** What a graph is to be built with. Outside of a traced program a number, so that a graph that is there keeps its meaning. */
  get value(): Scale {
    const live = this.#live.value;
    return live && isObserved() ? live.value : this.#stored;
  }

  /** The number, as float32 holds it. */
  get stored(): number {
    return this.#stored;
  }

  /** @param device that of the layer's weight */
  set(scale: number, device: Device): void {
    const values = Float32Array.of(scale);
    const live = this.#live.stored;
    if (!live) this.#live.value = new Variable(upload(device, values, [], "float32"), { requiresGrad: false });
    else if (values[0] !== this.#stored) {
      const { storage } = live.stored;
      // in place: a new tensor would have another address, and every program would be bound to it anew
      (storage!.device as Device).upload(values, "float32", { buffer: storage!.buffer as Buffer, offset: 0 });
    }
    this.#stored = values[0] as number;
  }
}
