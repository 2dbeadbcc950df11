/** A tree of modules as text, like PyTorch's: classes, the shapes of their parameters, repeated blocks once. */
import type { Module, Parameter } from "./module.ts";

const isFact = (value: unknown): boolean => ["number", "string", "boolean"].includes(typeof value);
const wordParameter = ({ dtype, shape }: Parameter): string => `${dtype === "float32" ? "" : `${dtype} `}[${shape.join(", ")}]`;

/** Of `model.layers.3` the list and the place in it, of `model.norm` the name. */
const split = (name: string): [list: string, at: string] => {
  const [, list = name, at = ""] = /^(.*)\.(\d+)$/.exec(name) ?? [];
  return [list, at];
};

/**
 * @example
 * String(new Linear(3, 2))   // Linear(weight [2, 3], bias [2])
 */
export function outline(module: Module): string {
  const facts = [
    ...Object.entries(module).flatMap(([name, value]) => (isFact(value) ? [`${name}=${value}`] : [])),
    ...[...module.ownParameters()].map(([name, parameter]) => `${name} ${wordParameter(parameter)}`),
  ];
  const runs: { list: string; first: string; last: string; count: number; text: string }[] = [];
  for (const [name, child] of module.children()) {
    const [list, at] = split(name);
    const text = outline(child);
    const run = runs.at(-1);
    if (at !== "" && run?.list === list && run.text === text) Object.assign(run, { last: at, count: run.count + 1 });
    else runs.push({ list, first: at, last: at, count: 1, text });
  }
  const { name } = module.constructor;
  if (runs.length === 0) return `${name}(${facts.join(", ")})`;
  const lines = runs.map(({ list, first, last, count, text }) => {
    const places = first === "" ? "" : count === 1 ? `.${first}` : `.${first}-${last}`;
    return `(${list}${places}): ${count === 1 ? "" : `${count} × `}${text}`;
  });
  const inner = [...(facts.length > 0 ? [facts.join(", ")] : []), ...lines].join("\n").replaceAll("\n", "\n  ");
  return `${name}(\n  ${inner}\n)`;
}
