/** `lorikeet/optim`: optimisers, gradient clipping and learning-rate schedules. */
export { Adafactor, type AdafactorOptions, TransformersAdafactor, type TransformersAdafactorOptions } from "./adafactor.ts";
export { Adadelta, type AdadeltaOptions, Adagrad, type AdagradOptions, RMSprop, type RMSpropOptions } from "./adagrad.ts";
export { Adam, type AdamOptions, AdamW } from "./adam.ts";
export { Adamax, type AdamaxOptions, NAdam, type NAdamOptions, RAdam, type RAdamOptions } from "./adam-variant.ts";
export { WeightAverage } from "./average.ts";
export { type ClippedGradients, clipGradNorm, clipGradValue } from "./clip.ts";
export { Lion, type LionOptions } from "./lion.ts";
export { type Gradients, gradientsOf, Optimizer, type ParameterGroup } from "./optimizer.ts";
export { type PlateauOptions, PlateauSchedule, type PlateauState } from "./plateau.ts";
export * from "./schedule.ts";
export { SGD, type SGDOptions } from "./sgd.ts";
