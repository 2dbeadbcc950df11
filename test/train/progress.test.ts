import { expect, test } from "vitest";
import { Progress } from "../../src/train/progress.ts";

test("a run of any number of steps goes on with its curves", () => {
  const [run, resumed] = [new Progress(), new Progress()];
  const steps = 200_000;
  run.history.loss.push(...[3, 2]);
  run.history.loss.length = steps;
  resumed.restore({ ...run.save(), step: steps });
  expect(resumed.step).toBe(steps);
  expect(resumed.history.loss).toHaveLength(steps);
  expect(resumed.history.loss.slice(0, 2)).toEqual([3, 2]);
  resumed.history.loss.push(1);
  expect(run.history.loss).toHaveLength(steps);
});
