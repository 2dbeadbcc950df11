/** Averages of weights and the schedule that watches a loss, beside PyTorch's rules written out. */
import { beforeAll, expect, test } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { compile } from "../../src/compile/trace.ts";
import { createWasm } from "../../src/devices/wasm/device.ts";
import { Variable } from "../../src/graph/variable.ts";
import "../../src/tensor/methods.ts";
import { PlateauSchedule, WeightAverage } from "../../src/optim/index.ts";
import { tensor } from "../../src/tensor/create.ts";

beforeAll(() => void useDevice(createWasm({ threads: 1 })));

test.each([
  [undefined, (values: number[]) => values.reduce((a, b) => a + b) / values.length],
  [0.75, (values: number[]) => values.reduce((a, b) => 0.75 * a + 0.25 * b)],
])("the average with decay %s, in a compiled step, and gone on with", (decay, expected) => {
  const p = new Variable(tensor([0, 1]));
  const frozen = new Variable(tensor([5]), { requiresGrad: false });
  const make = () => new WeightAverage([p, frozen], decay === undefined ? {} : { decay });
  const average = make();
  const step = compile(() => {
    p.assign(p.value.mul(2).add(1));
    average.update();
    return p.value;
  });
  step();
  step();
  const resumed = make();
  resumed.loadStateDict(average.stateDict());
  step();
  resumed.update();
  for (const each of [average, resumed]) {
    each.swap();
    expect(p.value.toArray()).toEqual([expect.closeTo(expected([1, 3, 7])), expect.closeTo(expected([3, 7, 15]))]);
    each.swap();
    expect(p.value.toArray()).toEqual([7, 15]);
  }
  expect(() => average.loadStateDict(new Map([["count", tensor(1)]]))).toThrow('loadStateDict: "0" is missing.');
});

test("the rate falls after too many values that are no better, and not while it cools down", () => {
  const plateau = new PlateauSchedule({ factor: 0.5, patience: 1, threshold: 0.1, cooldown: 2, min: 0.2 });
  const rates = [3, 2, 1.9, 1.9, 1.9, 1.9, 1.9, 1.9, 1, 1, 1].map((loss) => {
    plateau.observe(loss);
    return plateau.schedule(0, 1);
  });
  // torch.optim.lr_scheduler.ReduceLROnPlateau with the same settings
  expect(rates).toEqual([1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25]);
  const resumed = new PlateauSchedule({ factor: 0.5, patience: 1, threshold: 0.1, cooldown: 2, min: 0.2 });
  resumed.state = JSON.parse(JSON.stringify(plateau.state));
  expect(resumed.schedule(0, 1)).toBe(rates.at(-1));
});
