/** What CorDA wants to know about data: the covariance of what goes into each layer. */
import { ConfigError } from "../../errors.ts";
import { fromFloat16Bits, toFloat16Bits } from "../../graph/dtype.ts";
import { type Matrix, matrix, readValues } from "../../linalg/matrix.ts";
import { multiplyAdd, part, turn } from "../../linalg/product.ts";
import { initialiserOptions } from "../initialiser.ts";
import type { AdapterConfig } from "../method.ts";
import type { AnyConfig } from "../method-config.ts";
import { type CalibratedModel, calibrated, linearLayers, planCalibration, recording } from "./record.ts";

/**
 * Runs `model` on each batch and returns the config with the covariances that `initLoraWeights: "corda"` reads: of each layer's inputs X,
 * one row a position, C = Σ XᵀX/n over n calls, with X divided by its largest entry. PEFT wants batches of one row; here all rows of a
 * batch are one sample.
 *
 * @throws {ConfigError} when the config does not fit the model, there are no batches, or a layer's inputs have no positive entry
 * @example
 * const adapter = calibrateCorda(model, lora({ initLoraWeights: "corda", targetModules: ["q_proj"] }), [{ inputIds }]);
 * attach(model, adapter);
 */
export function calibrateCorda<Batch, Config extends AdapterConfig>(
  model: CalibratedModel<Batch>,
  adapter: Config,
  batches: Iterable<Batch>,
): Config {
  const operation = "calibrateCorda";
  const plan = planCalibration(model, adapter, batches, operation, "corda");
  const half = initialiserOptions("corda", adapter.config as AnyConfig)?.options["use_float16_for_covariance"] === true;
  const layers = linearLayers(plan);
  const sums = new Map(layers.map(({ path, base }) => [path, { C: matrix(base.in, base.in), calls: 0 }]));
  recording(model, layers, (run) => {
    for (const batch of batches)
      for (const [path, inputs] of run(batch))
        for (const x of inputs) {
          const sum = sums.get(path) as { C: Matrix; calls: number };
          const X = matrix(x.size / sum.C.rows, sum.C.rows, readValues(x));
          const largest = Math.abs(X.values.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY));
          if (!Number.isFinite(largest) || largest === 0)
            throw new ConfigError(`the largest value that goes into ${path} is ${largest}, which cannot be divided by.`, {
              operation,
              got: largest,
            });
          multiplyAdd(part(sum.C, 0, 0), turn(part(X, 0, 0)), part(X, 0, 0), 1 / largest ** 2);
          if (half)
            sum.C.values.forEach((value, at) => {
              sum.C.values[at] = fromFloat16Bits(toFloat16Bits(value));
            });
          sum.calls++;
        }
  });
  for (const [path, { C, calls }] of sums) {
    if (calls === 0)
      throw new ConfigError(`no data reached ${path}.`, {
        operation,
        got: path,
        hint: "Give at least one batch that goes through it.",
      });
    C.values.forEach((value, at) => {
      C.values[at] = value / calls;
    });
  }
  return calibrated(adapter, new Map([...sums].map(([path, { C }]) => [path, C])));
}
