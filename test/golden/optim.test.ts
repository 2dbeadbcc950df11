/** The cases of `optim/`: ten steps of each optimiser, clipping, and schedules, as PyTorch and transformers compute them. */
import { downloadSync } from "../../src/compile/program.ts";
import type { Tensor } from "../../src/graph/node.ts";
import type { Variable } from "../../src/graph/variable.ts";
import { Parameter } from "../../src/nn/module.ts";
import { clipGradNorm, clipGradValue } from "../../src/optim/clip.ts";
import * as optim from "../../src/optim/index.ts";
import type { LearningRate } from "../../src/optim/optimizer.ts";
import * as schedules from "../../src/optim/schedule.ts";
import { expectClose, expectValuesClose, type GoldenCase, goldenSuite, goldenTensors, readGolden, toTensor } from "./suite.ts";

type Arguments = Readonly<Record<string, unknown>>;
type AnyOptimizer = new (parameters: never[], options: never) => optim.Optimizer<LearningRate>;

/** By PyTorch's names; what transformers has under the same name is called after it. */
const optimizers = optim as unknown as Readonly<Record<string, AnyOptimizer | undefined>>;

/** PyTorch's argument names as ours: weight_decay → weightDecay. A rate of null, which the optimiser finds itself, is none here. */
const camelCase = (args: Arguments): Arguments =>
  Object.fromEntries(
    Object.entries(args).flatMap(([key, value]) =>
      key === "lr" && value === null ? [] : [[key.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase()), value]],
    ),
  );

interface OptimizerCase {
  readonly name: string;
  readonly optimizer: string;
  readonly library: string;
  readonly args: Arguments;
  readonly steps: number;
  readonly params: readonly unknown[];
  readonly file: string;
}

function optimizerCase({ name, optimizer, library, args, steps, params, file }: OptimizerCase): GoldenCase {
  const Class = optimizers[library === "transformers" ? `Transformers${optimizer}` : optimizer];
  if (!Class) return { name };
  const run = async () => {
    const tensors = await goldenTensors("optim", file);
    const get = (key: string) => tensors.get(key)!;
    const parameters = params.map((_, i) => Parameter.from(get(`init.${i}`).data as Float32Array, get(`init.${i}`).shape));
    const { groups, ...shared } = args;
    const given = (groups as { params: number[] }[] | undefined)?.map(({ params: own, ...settings }) => ({
      parameters: own.map((i) => parameters[i]!),
      ...camelCase(settings),
    }));
    const made = new Class((given ?? parameters) as never[], camelCase(shared) as never);
    for (let step = 0; step < steps; step++) {
      made.step(new Map<Variable, Tensor>(parameters.map((p, i) => [p, toTensor(get(`grad.${step}.${i}`))])));
      for (const [i, p] of parameters.entries())
        await expectClose(`parameter ${i} after step ${step + 1}`, p.stored, get(`step.${step}.${i}`), {
          rtol: 2e-5,
          atol: 2e-6,
        });
    }
  };
  return { name, run };
}

interface ClippingCase {
  readonly name: string;
  readonly kind: string;
  readonly max: number;
  readonly total_norm: number | null;
  readonly file: string;
}

const clipCase = ({ name, kind, max, total_norm, file }: ClippingCase): GoldenCase => ({
  name,
  run: async () => {
    const tensors = await goldenTensors("optim", file);
    const keys = [...tensors.keys()].filter((key) => key.startsWith("grad."));
    const gradients = new Map(keys.map((key) => [key, toTensor(tensors.get(key)!)]));
    const normType = { norm: 2, norm_p1: 1, norm_inf: Number.POSITIVE_INFINITY }[kind];
    let clipped: Map<string, Tensor>;
    if (normType === undefined) clipped = clipGradValue(gradients, max);
    else {
      const result = clipGradNorm(gradients, max, { normType });
      clipped = result.gradients;
      expectValuesClose("norm", downloadSync(result.totalNorm), [total_norm!], { rtol: 1e-6, atol: 0 });
    }
    for (const key of keys)
      await expectClose(key, clipped.get(key)!, tensors.get(key.replace("grad", "clipped"))!, { rtol: 1e-6, atol: 1e-7 });
  },
});

interface ScheduleCase {
  readonly base_lr: number;
  readonly args: Readonly<Record<string, never>>;
  readonly lr: readonly number[];
}

const {
  constantSchedule,
  linearSchedule,
  cosineSchedule,
  cosineWithRestartsSchedule,
  polynomialSchedule,
  inverseSqrtSchedule,
  warmupStableDecaySchedule,
  stepSchedule,
  multiStepSchedule,
  exponentialSchedule,
  cosineAnnealingSchedule,
  cosineAnnealingWarmRestartsSchedule,
  oneCycleSchedule,
} = schedules;

/** Schedules by the names of the fixtures, given their arguments. */
const makeSchedule: Readonly<Record<string, (args: ScheduleCase["args"]) => schedules.Schedule>> = {
  constant_with_warmup: (a) => constantSchedule({ warmupSteps: a["num_warmup_steps"]! }),
  linear: (a) => linearSchedule({ warmupSteps: a["num_warmup_steps"]!, totalSteps: a["num_training_steps"]! }),
  cosine: (a) =>
    cosineSchedule({ warmupSteps: a["num_warmup_steps"]!, totalSteps: a["num_training_steps"]!, cycles: a["num_cycles"]! }),
  cosine_with_restarts: (a) =>
    cosineWithRestartsSchedule({
      warmupSteps: a["num_warmup_steps"]!,
      totalSteps: a["num_training_steps"]!,
      cycles: a["num_cycles"]!,
    }),
  polynomial: (a) =>
    polynomialSchedule({
      warmupSteps: a["num_warmup_steps"]!,
      totalSteps: a["num_training_steps"]!,
      end: a["lr_end"]!,
      power: a["power"]!,
    }),
  inverse_sqrt: (a) => inverseSqrtSchedule({ warmupSteps: a["num_warmup_steps"]! }),
  warmup_stable_decay: (a) =>
    warmupStableDecaySchedule({
      warmupSteps: a["num_warmup_steps"]!,
      decaySteps: a["num_decay_steps"]!,
      totalSteps: a["num_training_steps"]!,
      minRatio: a["min_lr_ratio"]!,
      warmup: a["warmup_type"]!,
      decay: a["decay_type"]!,
    }),
  step_lr: (a) => stepSchedule({ stepSize: a["step_size"]!, gamma: a["gamma"]! }),
  multi_step_lr: (a) => multiStepSchedule({ milestones: a["milestones"]!, gamma: a["gamma"]! }),
  exponential_lr: (a) => exponentialSchedule({ gamma: a["gamma"]! }),
  cosine_annealing_lr: (a) => cosineAnnealingSchedule({ halfPeriod: a["T_max"]!, min: a["eta_min"]! }),
  cosine_annealing_warm_restarts: (a) =>
    cosineAnnealingWarmRestartsSchedule({ first: a["T_0"]!, factor: a["T_mult"]!, min: a["eta_min"]! }),
  one_cycle_lr: (a) =>
    oneCycleSchedule({
      max: a["max_lr"]!,
      totalSteps: a["total_steps"]!,
      warmupShare: a["pct_start"]!,
      anneal: a["anneal_strategy"]!,
      divFactor: a["div_factor"]!,
      finalDivFactor: a["final_div_factor"]!,
    }),
};

function scheduleCase(name: string, { base_lr, args, lr }: ScheduleCase): GoldenCase {
  const make = makeSchedule[name];
  if (!make) return { name: `schedule_${name}` };
  const run = () => {
    const schedule = make(args);
    const got = lr.map((_, step) => schedule(step, base_lr));
    expectValuesClose("learning rate", got, lr, { rtol: 1e-9, atol: 1e-12 });
  };
  return { name: `schedule_${name}`, run };
}

const index = readGolden<{ optimizers: OptimizerCase[]; clipping: ClippingCase[] }>("optim", "index.json");
const rates = readGolden<{ schedules: Record<string, ScheduleCase> }>("optim", "schedules.json");
goldenSuite("optim", [
  ...(index?.optimizers.map(optimizerCase) ?? []),
  ...(index?.clipping.map(clipCase) ?? []),
  ...Object.entries(rates?.schedules ?? {}).map(([name, schedule]) => scheduleCase(name, schedule)),
]);
