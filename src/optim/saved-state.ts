/** State that is loaded by name. */
import { FormatError, nearestName, requireKind, ShapeError, wordShape } from "../errors.ts";
import type { Tensor } from "../graph/node.ts";
import { sameShape } from "../graph/shape.ts";
import type { Variable } from "../graph/variable.ts";

/**
 * What each variable is given by a saved state, for `assignAll`.
 *
 * @throws {FormatError} for a missing or an unknown name; @throws {ShapeError} when a value does not fit
 */
export function fittingState(
  own: ReadonlyMap<string, Variable>,
  saved: ReadonlyMap<string, Tensor>,
  owner: string,
): [Variable, Tensor][] {
  const operation = "loadStateDict";
  requireKind(operation, "a Map", { saved });
  const pairs = [...own].map(([name, variable]): [Variable, Tensor] => {
    const value = saved.get(name);
    if (!value) throw new FormatError(`"${name}" is missing.`, { operation, expected: name, ...near(name, saved.keys()) });
    if (!sameShape(value.shape, variable.shape))
      throw new ShapeError(`"${name}" is ${wordShape(value.shape)} in the file, ${wordShape(variable.shape)} here.`, {
        operation,
        expected: variable.shape,
        got: value.shape,
      });
    return [variable, value];
  });
  for (const name of saved.keys())
    if (!own.has(name))
      throw new FormatError(`"${name}" is not a state of this ${owner}.`, { operation, got: name, ...near(name, own.keys()) });
  return pairs;
}

function near(name: string, names: Iterable<string>): { hint?: string } {
  const nearest = nearestName(name, names);
  return nearest ? { hint: `The nearest is "${nearest}".` } : {};
}
