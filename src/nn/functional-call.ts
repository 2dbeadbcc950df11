/** Modules as functions of their parameters, for derivatives that are taken of functions: by sample, along a direction, twice. */
import { ConfigError, nearestName, requireKind, ShapeError, wordShape } from "../errors.ts";
import { requireTensors, type Tensor } from "../graph/node.ts";
import { sameShape } from "../graph/shape.ts";
import { substituting } from "../graph/variable.ts";
import { type Module, type Parameter, requireModule } from "./module.ts";

/**
 * `module.forward(...inputs)` with other values of its parameters, which the module itself keeps as they are. Parameters that are not
 * named have their own values. Functions that the module has compiled are run as they are written, for these values and their derivatives.
 *
 * @param values tensors by path, in an object or a Map, as `stateDict` is one; of a shared parameter any of its paths
 * @throws {ConfigError} for a path that is no parameter's, naming the nearest, and for two values of a shared one; @throws {DTypeError} for
 *   what is no tensor; @throws {ShapeError} for a tensor of another shape
 * @see https://docs.pytorch.org/docs/stable/generated/torch.func.functional_call.html
 * @example
 * const net = new Linear(3, 2);
 * const parameters = Object.fromEntries(net.stateDict());
 * const names = Object.keys(parameters);
 * // gradients of the loss of each sample: [5, 2, 3] and [5, 2]
 * const [perWeight, perBias] = perSampleGradients(
 *   (own, x) => functionalCall(net, Object.fromEntries(names.map((name, i) => [name, own[i]!])), x).square().sum(),
 *   Object.values(parameters),
 *   [ones([5, 3])],
 * );
 */
export function functionalCall<Model extends Module & { forward(...inputs: never[]): unknown }>(
  module: Model,
  values: Readonly<Record<string, Tensor>> | ReadonlyMap<string, Tensor>,
  ...inputs: Parameters<Model["forward"]>
): ReturnType<Model["forward"]> {
  const operation = "functionalCall";
  requireModule(operation, module);
  requireKind(operation, "an object", { values });
  const parameters = new Map(module.parameterPaths());
  const given = new Map<Parameter, Tensor>();
  for (const [path, value] of values instanceof Map ? (values as ReadonlyMap<string, Tensor>) : Object.entries(values)) {
    const parameter = parameters.get(path);
    if (!parameter) {
      const near = nearestName(path, parameters.keys());
      throw new ConfigError(`"${path}" is not a parameter of this module.`, {
        operation,
        got: path,
        hint: near === undefined ? "Its paths are the keys of module.stateDict()." : `The nearest is "${near}".`,
      });
    }
    requireTensors(operation, { [path]: value });
    if (!sameShape(value.shape, parameter.shape))
      throw new ShapeError(`"${path}" is ${wordShape(value.shape)} here, ${wordShape(parameter.shape)} in the module.`, {
        operation,
        expected: parameter.shape,
        got: value.shape,
      });
    if ((given.get(parameter) ?? value) !== value)
      throw new ConfigError(`"${path}" is shared, and has another value under its other path.`, {
        operation,
        got: path,
        hint: "Give the same tensor for both paths, or name one of them.",
      });
    given.set(parameter, value);
  }
  return substituting(given, () => module.forward(...inputs) as ReturnType<Model["forward"]>);
}
