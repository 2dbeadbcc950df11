/** Running a model to see what goes into the layers that an adapter is about to change. */
import { realize } from "../../compile/program.ts";
import { ConfigError, requireKind, under } from "../../errors.ts";
import type { Tensor } from "../../graph/node.ts";
import { type Layer, Module, type Parameter, requireModule } from "../../nn/module.ts";
import { adaptersOf } from "../adapted-model.ts";
import { type AttachPlan, type PlannedLayer, planAttach } from "../attach-plan.ts";
import { disabled } from "../disabled.ts";
import type { AdapterConfig, Calibration } from "../method.ts";
import type { AnyConfig } from "../method-config.ts";

/** A batch of what the model takes; these of its parts say which positions count. */
export interface CalibrationBatch {
  readonly inputIds?: Tensor | undefined;
  readonly attentionMask?: Tensor | undefined;
  readonly labels?: Tensor | undefined;
}

/** A model that can be run on such batches. */
export type CalibratedModel<Batch> = Module & { forward(batch: Batch): unknown };

/** A layer that remembers what went into it. */
class Recorder extends Module implements Layer {
  readonly base_layer: Layer & { readonly weight?: Parameter; readonly bias?: Parameter | null };
  readonly seen: Tensor[] = [];

  constructor(base: Layer) {
    super();
    this.base_layer = base;
    this.training = base.training;
  }

  /** The layer's, for code that looks at it: a tied output layer. */
  get weight(): Parameter | undefined {
    return this.base_layer.weight;
  }

  get bias(): Parameter | null {
    return this.base_layer.bias ?? null;
  }

  forward(x: Tensor): Tensor {
    this.seen.push(x);
    return this.base_layer.forward(x);
  }
}

/**
 * The layers that an adapter with this config would change, all of them linear.
 *
 * @throws {ConfigError} as `attach` does, and for another initialiser
 */
export function planCalibration(
  model: Module,
  adapter: AdapterConfig,
  batches: unknown,
  operation: string,
  initialiser: string,
): AttachPlan {
  requireModule(operation, model);
  requireKind(operation, "a list or another iterable", { batches });
  requireKind(operation, "an object", { "adapter.config": (adapter as Partial<AdapterConfig> | undefined)?.config });
  const { initLoraWeights: name } = adapter.config as AnyConfig;
  if (name !== initialiser)
    throw new ConfigError(`is for \`initLoraWeights\` "${initialiser}", not ${JSON.stringify(name)}.`, { operation, got: name });
  return under(operation, () => planAttach(model, adapter, operation));
}

/** The layers of a plan that such initialisers are for. */
export const linearLayers = ({ layers }: AttachPlan): PlannedLayer[] => layers.filter(({ facts }) => facts.kind === "linear");

/**
 * Runs `body`, which is given a function that runs the model once and returns what went into each of the layers, by path and in the order
 * of calls. The model is as before afterwards, and runs without its adapters, if it has some.
 */
export function recording<Batch, Result>(
  model: CalibratedModel<Batch>,
  layers: readonly PlannedLayer[],
  body: (run: (batch: Batch) => Map<string, Tensor[]>) => Result,
): Result {
  const recorders = new Map<string, Recorder>();
  const inTraining = model.training;
  const record = () => {
    model.eval();
    for (const { path } of layers) {
      const recorder = new Recorder(model.getModule(path) as Layer);
      model.replaceModule(path, recorder);
      recorders.set(path, recorder);
    }
    try {
      return body((batch) => {
        for (const { seen } of recorders.values()) seen.length = 0;
        model.forward(batch);
        const seen = new Map([...recorders].map(([path, recorder]) => [path, [...recorder.seen]]));
        realize([...seen.values()].flat());
        return seen;
      });
    } finally {
      for (const [path, { base_layer }] of recorders) model.replaceModule(path, base_layer);
      model.train(inTraining);
    }
  };
  return adaptersOf(model) ? disabled(model, record) : record();
}

/** The config with what was found out. */
export const calibrated = <Config extends AdapterConfig>(
  adapter: Config,
  calibration: Calibration,
  changes: AnyConfig = {},
): Config => ({ ...adapter, config: { ...adapter.config, ...changes }, calibration });
