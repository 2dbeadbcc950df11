/** How the names in a model's checkpoints differ from the paths of its parameters. */

/** What output layers are called, none of which is a part of a model without one. */
const outputs = /^(lm_head|embed_out|score|classifier|pre_classifier|cls|vocab_\w+)\./;

/**
 * The path of what a checkpoint calls so: in one of a model without output layer, paths begin below `prefix`.
 *
 * @param prefix first step of the paths of everything but the output layer
 */
export const pathUnder = (prefix: string, name: string): string =>
  name.startsWith(`${prefix}.`) || outputs.test(name) ? name : `${prefix}.${name}`;

/** Of models whose checkpoints have names of their own, or hold what the model has no use for. */
export interface CheckpointNames {
  /** The path of what a checkpoint calls so; `null` for what is left unread. Leaves paths as they are. */
  pathOf(name: string): string | null;
  /** What a checkpoint calls the parameter at this path; the path itself when absent. */
  nameOf?(path: string): string;
}
