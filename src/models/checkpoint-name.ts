/** How the names in a model's checkpoints differ from the paths of its parameters. */

/** Of models whose checkpoints have names of their own, or hold what the model has no use for. */
export interface CheckpointNames {
  /** The path of what a checkpoint calls so; `null` for what is left unread. Leaves paths as they are. */
  pathOf(name: string): string | null;
  /** What a checkpoint calls the parameter at this path; the path itself when absent. */
  nameOf?(path: string): string;
}
