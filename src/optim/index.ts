/** `lorikeet/optim`: optimisers, gradient clipping and learning-rate schedules. */
export { Adam, type AdamOptions, AdamW } from "./adam.ts";
export { type ClippedGradients, clipGradNorm, clipGradValue } from "./clip.ts";
export { Lion, type LionOptions } from "./lion.ts";
export { type Gradients, gradientsOf, Optimizer, type ParameterGroup } from "./optimizer.ts";
export * from "./schedule.ts";
export { SGD, type SGDOptions } from "./sgd.ts";
