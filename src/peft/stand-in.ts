/** A module that stands in for methods of a model, which stays the one that it is; taking it off gives the model its own methods back. */
import { structure } from "../graph/variable.ts";
import { Module } from "../nn/module.ts";

/** Its parameters are the model's for as long as it stands there. */
export class StandIn extends Module {
  readonly #place: Module;
  /** What was there before under the names that are stood in for; mostly nothing, as methods are the class's. */
  readonly #before = new Map<string, PropertyDescriptor | undefined>();

  /** @param name under which modules are looked for in the model */
  constructor(place: Module, name: string) {
    super();
    this.#place = place;
    this.training = place.training;
    this.stand(name, { value: this, enumerable: true });
  }

  /** Puts something of its own in the place of a method or property of the model. */
  protected stand(name: string, descriptor: PropertyDescriptor): void {
    this.#before.set(name, Object.getOwnPropertyDescriptor(this.#place, name));
    Object.defineProperty(this.#place, name, { ...descriptor, configurable: true });
    structure.value = structure.stored + 1;
  }

  /** Gives the model its own methods back. */
  takeOff(): void {
    for (const [name, descriptor] of this.#before) {
      Reflect.deleteProperty(this.#place, name);
      if (descriptor) Object.defineProperty(this.#place, name, descriptor);
    }
    structure.value = structure.stored + 1;
  }
}
