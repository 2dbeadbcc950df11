/** Which values are computed together: none of what must run before a launch may wait for it. */
import { expect, test } from "vitest";
import { realize } from "../../src/compile/program.ts";
import { matmul } from "../../src/graph/contraction.ts";
import { add, exp, mul, sin } from "../../src/graph/elementwise.ts";
import { transpose } from "../../src/graph/movement.ts";
import { onEveryDevice } from "../devices.ts";
import { randn, values } from "../nn/tensors.ts";

onEveryDevice(() => {
  test("a launch that has waited since before another was begun may wait for it all the same", () => {
    const [x, w, z] = [randn([4, 4], 1), randn([4, 4], 2), randn([4, 4], 3)];
    const early = exp(x);
    const product = matmul(early, w);
    const late = sin(z);
    // joins the launch of `early`, for which the product waits, and waits for that of `late`, of which it reads other places
    const turned = add(early, transpose(late));
    // must not join the launch of `late`: the product would wait for itself
    const last = mul(product, late);
    realize([product, late, turned, last]);
    const [p, l] = [values(product), values(late)];
    values(last).forEach((each, i) => expect(each).toBeCloseTo(p[i]! * l[i]!, 5));
    const e = values(early);
    values(turned).forEach((each, i) => expect(each).toBeCloseTo(e[i]! + l[(i % 4) * 4 + Math.floor(i / 4)]!, 5));
  });
});
