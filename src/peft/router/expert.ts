/** The adapters of a mixture: LoRA, read from folders all of which are checked before the model changes. */
import { ConfigError } from "../../errors.ts";
import type { ModelSource, SourceOptions } from "../../formats/model-source.ts";
import { structure } from "../../graph/variable.ts";
import { type Module, requireModule } from "../../nn/module.ts";
import { type Adapter, adaptedModel, adaptersOf, choose } from "../adapted-model.ts";
import { readFor } from "../adapter-file.ts";
import { install, type Starts } from "../attach.ts";
import type { AttachPlan } from "../attach-plan.ts";
import { lora } from "../methods/lora.ts";
import type { Router } from "./router.ts";

/** Where an adapter lies, and what it is to be called. */
export interface ExpertSource extends Omit<SourceOptions, "file"> {
  readonly source: ModelSource;
  readonly name: string;
}

/** An adapter that has been read. */
export interface ReadExpert {
  readonly name: string;
  readonly plan: AttachPlan;
  readonly starts: Starts;
}

/** @throws {ConfigError} when one of them is no LoRA that a token could have a share of */
export async function readExperts(model: Module, sources: readonly ExpertSource[], operation: string): Promise<ReadExpert[]> {
  const found: ReadExpert[] = [];
  for (const { source, name, ...where } of sources) {
    const { plan, starts } = await readFor(operation, model, source, { ...where, name });
    const { method, config, layers, saved, biases } = plan;
    const kinds = layers.map(({ facts }) => facts.kind);
    const odd =
      (method !== lora && `an adapter of ${method.peftType} in a form of its own`) ||
      (config["loraBias"] === true && "a LoRA with `loraBias`") ||
      (saved.size + biases.size + (starts.base?.size ?? 0) > 0 && "a LoRA that trains parts of the model as they are") ||
      (kinds.some((kind) => kind !== "linear" && kind !== "embedding") && "a LoRA on convolutions or parameters");
    if (odd)
      throw new ConfigError(`"${name}" is ${odd}, of which a token has no share.`, {
        operation,
        got: name,
        hint: "Mix plain LoRA on linear layers and embeddings.",
      });
    found.push({ name, plan, starts });
  }
  return found;
}

/** Puts the adapters on, lets nothing but them act, and gives the mixture to what `mix` makes. */
export function installExperts(
  model: Module,
  experts: readonly ReadExpert[],
  trainable: boolean,
  mix: () => Router,
): readonly Adapter[] {
  const names = experts.map(({ name }) => name);
  const installed = experts.map(({ name, plan, starts }) => install(model, plan, { name, trainable }, starts));
  const adapted = adaptedModel(model, "attach");
  choose(adapted, names);
  adapted.router = mix();
  structure.value = structure.stored + 1;
  return installed;
}

/** @throws {ConfigError} when the model has adapters already */
export function refuseAdapted(model: Module, operation: string): void {
  requireModule(operation, model);
  const others = [...(adaptersOf(model)?.adapters.keys() ?? [])];
  if (others.length > 0)
    throw new ConfigError(`the model has adapters: ${others.join(", ")}.`, {
      operation,
      got: others,
      hint: "Take them off with detach.",
    });
}
