/**
 * The option `targetParameters`: adapters of matrices that are parameters of any module, above all the experts of a mixture, which stand
 * in one parameter [experts, out, in]. The module runs as ever, with another tensor in the parameter's place.
 *
 * Of one module several parameters may be adapted. Their layers lie in each other as in PEFT, the first parameter's innermost, and the
 * paths of all but the last have a `base_layer` for each that lies around them.
 */
import { ConfigError, nearestName, wordShape } from "../errors.ts";
import { isFloat } from "../graph/dtype.ts";
import { reshape, transpose } from "../graph/movement.ts";
import type { Tensor } from "../graph/node.ts";
import { CodedMatrices } from "../models/mixture.ts";
import { type Module, type Parameter, withParts } from "../nn/module.ts";
import type { Adapted } from "./adapted-model.ts";
import type { CalledLayer, KindOfLayer } from "./layer-kind.ts";
import type { AnyConfig } from "./method-config.ts";

/** A parameter that is to be adapted. */
export interface TargetedParameter {
  /** That of its layer: the module's, and `.base_layer` for every parameter of the module that comes after it. */
  readonly path: string;
  readonly module: Module;
  /** The module's path and the parameter's name in it. */
  readonly parameterPath: string;
  readonly facts: KindOfLayer;
}

/** The path of the module that a layer of a parameter is around. */
export const modulePath = (path: string): string => path.replace(/(\.base_layer)+$/, "");

/** The parameter with another tensor for its value. */
function standingIn(own: Parameter, value: Tensor): Parameter {
  const { shape, dtype, size } = value;
  const fixed = (x: unknown) => ({ value: x });
  return Object.create(own, {
    ...{ value: fixed(value), shape: fixed(shape), dtype: fixed(dtype), size: fixed(size), stored: { get: () => own.stored } },
  });
}

/** How a method sees a parameter: as a matrix [out, in], or [experts, out, in]. Modules with `isTransposed` keep [experts, in, out]. */
function kindOfParameter(module: Module, name: string): KindOfLayer {
  const matrices: unknown = Reflect.get(module, name);
  if (matrices instanceof CodedMatrices) return kindOfCodes(module, name, matrices);
  const own = (): Parameter => Reflect.get(module, name);
  const isTurned = "isTransposed" in module && module.isTransposed === true && own().shape.length === 3;
  return {
    kind: "parameter",
    is: (other) => other === module,
    weight: own,
    bias: () => null,
    sizes: (shape) =>
      isTurned ? [shape.at(-2) as number, shape.at(-1) as number] : [shape.at(-1) as number, shape.at(-2) as number],
    ...(isTurned ? { turn: (weight: Tensor) => transpose(weight) } : {}),
    run: (layer, weight, x, more) =>
      withParts(module, { [name]: standingIn(own(), isTurned ? transpose(weight) : weight) }, () =>
        (layer as CalledLayer).forward(x, ...more),
      ),
    allLinear: false,
  };
}

/** Experts that are kept as codes: whoever looks sees what they stand for, and with another weight the module runs with floats. */
function kindOfCodes(module: Module, name: string, matrices: CodedMatrices): KindOfLayer {
  const { codes, shape, isTransposed } = matrices;
  return {
    kind: "parameter",
    is: (other) => other === module,
    weight: () => codes.weight,
    bias: () => null,
    sizes: () => [shape[2], shape[1]],
    codes: {
      matrix: () => matrices.widened(),
      encoded: (_, matrix) => codes.encoded(reshape(matrix, [codes.outFeatures, codes.inFeatures])),
    },
    run: (layer, weight, x, more) =>
      withParts(module, { [name]: { value: isTransposed ? transpose(weight) : weight } }, () =>
        (layer as CalledLayer).forward(x, ...more),
      ),
    allLinear: false,
  };
}

/**
 * The parameters that the option means: those whose path is one of the names or ends in one after a dot, as in PEFT.
 *
 * @throws {ConfigError} for a name that means none, a parameter of the whole model, or one that is no matrix
 */
export function targetedParameters(
  names: readonly string[],
  modules: ReadonlyMap<string, Module>,
  saved: readonly string[],
): TargetedParameter[] {
  const operation = "attach";
  const refuse = (problem: string, got: unknown, hint?: string): never => {
    throw new ConfigError(problem, { operation, got, ...(hint === undefined ? {} : { hint }) });
  };
  const isMeant = (path: string, name: string) => path === name || path.endsWith(`.${name}`);
  const all = [...modules].flatMap(([path, module]) =>
    [...module.ownParameters()].map(([name, parameter]) => ({
      path: path === "" ? name : `${path}.${name}`,
      outer: path,
      module,
      name,
      parameter,
    })),
  );
  for (const name of names)
    if (!all.some(({ path }) => isMeant(path, name))) {
      const near = nearestName(
        name,
        all.flatMap(({ path }) => [path, path.split(".").slice(-2).join("."), path.split(".").slice(-3).join(".")]),
      );
      refuse(
        `no parameter is called "${name}" of targetParameters.`,
        name,
        near === undefined ? undefined : `Did you mean "${near}"?`,
      );
    }
  const meant = all.filter(({ path }) => names.some((name) => isMeant(path, name)));
  for (const { path, outer, module, name, parameter } of meant) {
    const isCoded = Reflect.get(module, name) instanceof CodedMatrices;
    if (outer === "")
      refuse(`${path} is a parameter of the model itself, not of a module in it, so \`targetParameters\` cannot mean it.`, path);
    if (!isCoded && parameter.shape.length !== 2 && parameter.shape.length !== 3)
      refuse(
        `${path} is ${wordShape(parameter.shape)}; \`targetParameters\` adapts matrices [out, in] and [experts, out, in].`,
        path,
      );
    if (!isCoded && !isFloat(parameter.dtype))
      refuse(`${path} holds codes (${parameter.dtype}); adapt its layer with \`targetModules\`.`, path);
    if (saved.some((whole) => outer === whole || outer.startsWith(`${whole}.`)))
      refuse(`${path} is trained as a whole already.`, path, "Take its module out of `modulesToSave`.");
  }
  return meant.map(({ path, outer, module, name }, i) => ({
    path:
      outer + ".base_layer".repeat(meant.slice(i + 1).filter((later) => later.module === module && later.outer === outer).length),
    module,
    parameterPath: path,
    facts: kindOfParameter(module, name),
  }));
}

/** @throws {ConfigError} for options that are of layers only */
export function refuseOnParameters(operation: string, config: AnyConfig): void {
  const option = ["loraDropout", "loraBias", "fanInFanOut"].find((name) => config[name]);
  if (option !== undefined)
    throw new ConfigError(`\`targetParameters\` does not go with \`${option}\`: a matrix is adapted, not a layer.`, {
      operation,
      got: config["targetParameters"],
    });
}

/**
 * A module is adapted itself or by its parameters. Since layers of parameters lie in each other, their place tells what they are, so that
 * all adapters of a model must adapt the same ones.
 *
 * @param targets paths of the modules that are adapted themselves
 */
export function refuseMixture(
  adapted: Adapted | undefined,
  targets: readonly string[],
  parameters: readonly TargetedParameter[],
  { targetParameters }: AnyConfig,
): void {
  const own = new Set(parameters.map(({ path }) => modulePath(path)));
  const isParameter = (path: string) => adapted?.layers.get(path)?.base().kind === "parameter";
  const both =
    targets.find((path) => own.has(path) || isParameter(path)) ??
    [...own].find((path) => adapted?.layers.has(path) && !isParameter(path));
  if (both !== undefined)
    throw new ConfigError(`${both} is a target itself, so its parameters cannot be targets of \`targetParameters\`, too.`, {
      operation: "attach",
      got: both,
      hint: "Take one of the two out; `targetModules: []` adapts parameters only.",
    });
  const inside = targets.find((path) => [...own].some((outer) => path.startsWith(`${outer}.`)));
  if (inside !== undefined)
    throw new ConfigError(`${inside} lies in a module of which a parameter is adapted.`, {
      operation: "attach",
      got: inside,
      hint: "Take it out of the targets with `excludeModules`.",
    });
  const sorted = (list: unknown) => [...((list ?? []) as readonly string[])].sort();
  const wanted = sorted(targetParameters);
  for (const { name, config } of adapted?.adapters.values() ?? []) {
    const theirs = sorted(config["targetParameters"]);
    if (wanted.length > 0 && theirs.length > 0 && String(wanted) !== String(theirs))
      throw new ConfigError(`the adapter "${name}" adapts other parameters: ${theirs.join(", ")}.`, {
        operation: "attach",
        got: wanted,
        hint: "All adapters of a model that have `targetParameters` must have the same ones.",
      });
  }
}
