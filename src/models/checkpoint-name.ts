/** How the names in a model's checkpoints differ from the paths of its parameters. */
import type { Shape } from "../graph/shape.ts";

/** What output layers are called, none of which is a part of a model without one. */
const outputs =
  /^(lm_head|embed_out|score|classifier|classification_head|pre_classifier|cls|qa_outputs|predictions|sop_classifier|vocab_\w+)\./;

/** What is drawn anew, and what is left unread, where a model gets another output layer than its checkpoint has. */
const replaceable = /^(head|decoder|generator_\w+|discriminator_\w+)\.|(^|\.)pooler\./;

/** Whether a path leads into an output layer, or into what gathers states for it. */
export const isOfOutput = (path: string): boolean => outputs.test(path) || replaceable.test(path);

/** What stands behind the layers of some models and is missing in checkpoints of others. */
export const isOfPooler = (path: string): boolean => /^pooler\./.test(path);

/** Where in a model everything but its output layer is. */
export interface NamedPart extends Pick<CheckpointNames, "nameOf" | "partsOf"> {
  /** Property under which it is: the first step of the paths of its parameters. */
  readonly name: string;
  /** The path of what a checkpoint calls so, where that differs; `null` for what is left unread. */
  pathOf?(name: string, config?: unknown): string | null;
}

/** The path of what a checkpoint calls so; in a checkpoint of that part alone, paths begin in it. */
export function pathBy({ name: part, pathOf }: NamedPart, name: string, config?: unknown): string | null {
  const path = name.startsWith(`${part}.`) || outputs.test(name) ? name : `${part}.${name}`;
  return pathOf ? pathOf(path, config) : path;
}

/** Of models whose checkpoints have names of their own, or hold what the model has no use for. */
export interface CheckpointNames {
  /** The path of what a checkpoint calls so; `null` for what is left unread. Leaves paths as they are. */
  pathOf(name: string): string | null;
  /** What a checkpoint calls the parameter at this path; the path itself when absent. */
  nameOf?(path: string): string;
  /**
   * The names under which a checkpoint may have the parameter at this path in equal parts, in the order of its values; nothing where it
   * is in one. It is read either way and written in parts.
   */
  partsOf?(path: string, shape: Shape): readonly string[] | undefined;
}
