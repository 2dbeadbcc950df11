/** A loss and its gradients are computed in one go, whichever of them is asked for, and nobody else's values are. */
import { describe, expect, it } from "vitest";
import { type Tensor, tensor, Variable, valueAndGrad, withVjp } from "../../src/index.ts";
import { AdamW, clipGradNorm, gradientsOf } from "../../src/optim/index.ts";

const isComputed = (x: Tensor | null): boolean => x?.storage !== null;
const start = () => ({
  w: new Variable(tensor([1, -2, 3])),
  v: new Variable(tensor([2, 1, -1])),
  x: tensor([0.5, 2, 1]),
  y: tensor([1, 3, -2]),
});
const lossOf = ({ w, v, x, y }: ReturnType<typeof start>): Tensor =>
  w.value.mul(x).square().sum().add(v.value.mul(y).square().sum());

describe("computed together", () => {
  it("one gradient brings the others and the loss, and the loss its gradients", () => {
    const first = start();
    const loss = lossOf(first);
    loss.backward();
    expect(first.w.grad!.toArray()).toEqual([0.5, -16, 6]);
    expect(isComputed(first.v.grad)).toBe(true);
    expect(isComputed(loss)).toBe(true);
    const second = start();
    const again = lossOf(second);
    again.backward();
    expect(again.item()).toBe(loss.item());
    expect(isComputed(second.w.grad) && isComputed(second.v.grad)).toBe(true);
    const { value, gradients } = valueAndGrad((w: Tensor, v: Tensor) => w.mul(v).square().sum())(first.x, first.y);
    gradients[1]!.toArray();
    expect(isComputed(value) && isComputed(gradients[0]!)).toBe(true);
  });

  it("a step brings the loss and the norm, whose gradients it does not keep", () => {
    const given = start();
    const parameters = [given.w, given.v];
    const loss = lossOf(given);
    const raw = gradientsOf(loss, parameters);
    const { gradients, totalNorm } = clipGradNorm(raw, 1);
    new AdamW(parameters, { lr: 0.1 }).step(gradients);
    expect(isComputed(loss) && isComputed(totalNorm)).toBe(true);
    expect([...raw.values(), ...gradients.values()].some(isComputed)).toBe(false);
    const untouched = start();
    expect(loss.item()).toBe(lossOf(untouched).item());
    const all = [...gradientsOf(lossOf(untouched), [untouched.w, untouched.v]).values()].flatMap((g) => g.toArray() as number[]);
    expect(totalNorm.item()).toBeCloseTo(Math.hypot(...all), 4);
  });

  it("losses of gradients that were added up come along, too", () => {
    const given = start();
    const losses = [lossOf(given), lossOf(given)];
    for (const loss of losses) loss.backward();
    new AdamW([given.w], { lr: 0.1 }).step();
    expect(losses.every(isComputed)).toBe(true);
  });

  it("what cannot be computed any more is left alone", () => {
    const given = start();
    const loss = lossOf(given);
    loss.backward();
    given.y.dispose();
    expect(given.w.grad!.toArray()).toEqual([0.5, -16, 6]);
    expect(isComputed(loss) || isComputed(given.v.grad)).toBe(false);
    expect(() => loss.item()).toThrow(/disposed/);
  });

  it("a gradient that is somebody's own value asks for nothing", () => {
    const { w, x, y } = start();
    const slope = x.mul(y);
    const sum = withVjp(
      (w) => w!.mul(slope).sum(),
      () => [slope],
    );
    const loss = sum(w.value);
    loss.backward();
    expect(w.grad).toBe(slope);
    expect(slope.toArray()).toEqual([0.5, 6, -2]);
    expect(isComputed(loss)).toBe(false);
  });
});
