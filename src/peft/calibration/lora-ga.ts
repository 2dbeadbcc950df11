/** What LoRA-GA wants to know about data: the gradient of each weight. */
import { ConfigError } from "../../errors.ts";
import type { Tensor } from "../../graph/node.ts";
import { type Matrix, matrix, readValues, transposed } from "../../linalg/matrix.ts";
import { gradientsOf } from "../../optim/optimizer.ts";
import type { AdapterConfig } from "../method.ts";
import { type CalibratedModel, calibrated, linearLayers, planCalibration } from "./record.ts";

/**
 * Runs `model` on each batch and returns the config with what `initLoraWeights: "lora_ga"` reads: the mean gradient of the loss with respect
 * to each weight. The model is in training mode meanwhile, as in PEFT.
 *
 * @param loss of a batch; the model's own, for batches with labels, when absent
 * @throws {ConfigError} when the config does not fit the model, a weight has no gradient, or there are no batches
 * @example
 * attach(model, calibrateLoraGa(model, lora({ r: 2, initLoraWeights: "lora_ga", targetModules: ["q_proj"] }), [{ inputIds, labels: inputIds }]))
 */
export function calibrateLoraGa<Batch, Config extends AdapterConfig>(
  model: CalibratedModel<Batch>,
  adapter: Config,
  batches: Iterable<Batch>,
  loss: (batch: Batch) => Tensor = (batch) => lossOf(model.forward(batch)),
): Config {
  const operation = "calibrateLoraGa";
  const layers = linearLayers(planCalibration(model, adapter, batches, operation, "lora_ga"));
  const coded = layers.find(({ facts }) => facts.codes);
  if (coded)
    throw new ConfigError(`the weight of ${coded.path} is held as codes, which have no gradient.`, {
      operation,
      got: coded.path,
      hint: "Load the model without quantisation.",
    });
  const parameters = new Map(layers.map(({ path, facts, module }) => [path, facts.weight(module)]));
  const sums = new Map<string, Matrix>();
  const inTraining = model.training;
  let count = 0;
  model.train();
  try {
    for (const batch of batches) {
      const gradients = gradientsOf(loss(batch), [...new Set(parameters.values())]);
      for (const [path, parameter] of parameters) {
        const gradient = gradients.get(parameter);
        if (!gradient) continue;
        const values = readValues(gradient);
        const before = sums.get(path)?.values;
        const [rows, columns] = gradient.shape as [number, number];
        sums.set(path, matrix(rows, columns, before ? values.map((value, at) => value + before[at]!) : values));
      }
      count++;
    }
  } finally {
    model.train(inTraining);
  }
  if (count === 0) throw new ConfigError("got no batches.", { operation });
  return calibrated(
    adapter,
    new Map(
      layers.map(({ path, facts }) => {
        const sum = sums.get(path);
        if (!sum)
          throw new ConfigError(`the loss does not depend on the weight of ${path}.`, {
            operation,
            got: path,
            hint: "Take it out with `excludeModules`.",
          });
        const mean = matrix(
          sum.rows,
          sum.columns,
          sum.values.map((value) => value / count),
        );
        return [path, facts.fanInFanOut ? transposed(mean) : mean];
      }),
    ),
  );
}

function lossOf(output: unknown): Tensor {
  const { loss } = output as { readonly loss?: Tensor };
  if (loss) return loss;
  throw new ConfigError("the model gives no loss.", {
    operation: "calibrateLoraGa",
    hint: "Give batches with `labels`, or a function that computes it.",
  });
}
