/** Wrong arguments, as people without a type checker pass them: one clear line from the function that was called, and no trace left. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import * as lorikeet from "../../src/index.ts";
import {
  ConfigError,
  DeviceError,
  DTypeError,
  FormatError,
  type LorikeetError,
  ShapeError,
  type Tensor,
} from "../../src/index.ts";

/** The public surface without its types. */
// biome-ignore lint/suspicious/noExplicitAny: what a JavaScript user sees
const L = lorikeet as any;
// biome-ignore lint/suspicious/noExplicitAny: what a JavaScript user sees
const of = (...shape: number[]): any => L.ones(shape);

let device: lorikeet.Device;
beforeAll(() => {
  device = lorikeet.createWasm({ threads: 1 });
  lorikeet.useDevice(device);
});
afterAll(() => device[Symbol.dispose]());

type Case = readonly [message: string, act: () => unknown, kind: new (...args: never[]) => Error];
const cases: Case[] = [
  // shapes and axes
  [
    "sub: [3] and [2] do not broadcast (3 ≠ 2). Sizes must be equal or 1, counted from the last axis.",
    () => of(3).sub(of(2)),
    ShapeError,
  ],
  ["minimum: [3] and [2] do not broadcast (3 ≠ 2).", () => L.minimum(of(3), of(2)), ShapeError],
  ["greater: [2] and [3] do not broadcast (2 ≠ 3).", () => of(3).greater(of(2)), ShapeError],
  ["sum: an axis is a whole number, got NaN.", () => of(3).sum(Number.NaN), ShapeError],
  ['sum: an axis is a whole number, got "0".', () => of(3).sum("0"), ShapeError],
  ["mean: an axis is a whole number, got an object.", () => of(3).mean({ axes: 0 }), ShapeError],
  ["softmax: axis 1000000000 is outside a tensor of 1 axes. Use -1…0.", () => of(3).softmax(1e9), ShapeError],
  ["sum: axes [0, 0] repeat one.", () => of(2, 3).sum([0, -2]), ShapeError],
  ["reshape: a shape is a list of whole numbers, got 6. Write [6].", () => of(2, 3).reshape(6), ShapeError],
  ['reshape: a shape is a list of whole numbers, got "6".', () => of(2, 3).reshape("6"), ShapeError],
  ["reshape: [1.5, 4] is not a shape: sizes are whole numbers from 0, or -1 once.", () => of(2, 3).reshape([1.5, 4]), ShapeError],
  ["reshape: [-2, -3] is not a shape: sizes are whole numbers from 0, or -1 once.", () => of(2, 3).reshape([-2, -3]), ShapeError],
  ["unflatten: 6 values do not fill [4, -1].", () => of(6).unflatten(0, [4, -1]), ShapeError],
  ["permute: an order of axes is a list of whole numbers, got 1.", () => of(2, 3).permute(1, 0), ShapeError],
  ["broadcastTo: [3] and [2] do not broadcast (3 ≠ 2).", () => of(3).broadcastTo([2]), ShapeError],
  ["zeros: a shape is a list of whole numbers, got 3. Write [3].", () => L.zeros(3), ShapeError],
  ["ones: [-1] is not a shape: sizes are whole numbers from 0.", () => L.ones([-1]), ShapeError],
  ["zeros: [1073741824, 1073741824] has more elements than can be counted (2⁵³).", () => L.zeros([2 ** 30, 2 ** 30]), ShapeError],
  ["arange: the count (= 1000000000000) must be a whole number from 0 to 2³¹ − 1.", () => L.arange(1e12), ShapeError],
  ["concatenate: [2, 3] and [3] have different numbers of axes (2 ≠ 1).", () => L.concatenate([of(2, 3), of(3)]), ShapeError],
  ["conv2d: bias is [2], got [3].", () => L.conv2d(of(1, 1, 3, 3), of(2, 1, 1, 1), [1, 2, 3]), ShapeError],
  ["max: nothing to compare along axes [0] of [0].", () => of(0).max(), ShapeError],
  ["norm: nothing to compare along axes [0] of [0].", () => of(0).norm({ p: Number.POSITIVE_INFINITY }), ShapeError],
  [
    "categorical: needs at least one class along the last axis, got [2, 0].",
    () => L.random.categorical(L.random.key(0), of(2, 0)),
    ShapeError,
  ],
  // dtypes and values
  ['cast: "float8" is not a dtype. Did you mean "float32"?', () => of(2).cast("float8"), DTypeError],
  [
    "cast: undefined is not a dtype. There are float32, float64, float16, bfloat16, int32, uint8, bool.",
    () => of(2).cast(),
    DTypeError,
  ],
  ['zeros: "int64" is not a dtype. Did you mean "int32"?', () => L.zeros([2], { dtype: "int64" }), DTypeError],
  ["tensor: 3000000000 does not fit int32 (-2147483648…2147483647).", () => L.tensor([3e9], { dtype: "int32" }), DTypeError],
  ["tensor: NaN does not fit int32 (-2147483648…2147483647).", () => L.tensor([Number.NaN], { dtype: "int32" }), DTypeError],
  ["full: -1 does not fit uint8 (0…255).", () => L.full([2], -1, { dtype: "uint8" }), DTypeError],
  ["tensor: the value is a Tensor, not a number or boolean. It is one already.", () => L.tensor(of(1)), DTypeError],
  [
    "tensor: [0] is a Tensor, not a number or boolean. Use stack or concatenate for lists of tensors.",
    () => L.tensor([of(1)]),
    DTypeError,
  ],
  ["at: indices are whole numbers, got booleans. For a mask use where.", () => of(2, 3).at([true, false]), DTypeError],
  ["bitwiseAnd: works on bits of integers or booleans, got float32 and float32.", () => L.bitwiseAnd(of(1), 1), DTypeError],
  // options
  ["variance: `axis` is not an option. Did you mean `axes`?", () => of(3).variance({ axis: 0 }), ConfigError],
  ["norm: options are an object, got 2. Write { p, axes, keepDims }.", () => of(3).norm(2), ConfigError],
  ['zeros: options are an object, got "int32". Write { dtype }.', () => L.zeros([2], "int32"), ConfigError],
  ["clamp: options are an object, got undefined. Write { min, max }.", () => of(3).clamp(), ConfigError],
  ["clamp: options are an object, got 0. Write { min, max }.", () => of(3).clamp(0, 1), ConfigError],
  ["maxPool2d: options are an object, got undefined.", () => L.maxPool2d(of(1, 3, 3)), ConfigError],
  [
    "conv1d: `groups` (= 0) must be a whole number from 1.",
    () => L.conv1d(of(1, 2, 3), of(2, 2, 1), null, { groups: 0 }),
    ConfigError,
  ],
  ["at: `begin` is not an option. There are start, stop, step.", () => of(3).at({ begin: 1 }), ConfigError],
  ["at: undefined is not an index.", () => of(3).at(undefined), ConfigError],
  [
    "pad: amounts [1,1] are not pairs of whole numbers for 1 axes. Write [[before, after], …].",
    () => of(2).pad([1, 1]),
    ShapeError,
  ],
  ["pad: amounts undefined are not pairs of whole numbers for 1 axes.", () => of(2).pad(), ShapeError],
  [
    "sum: an axis is a whole number, got an object. Write sum(axes, keepDims).",
    () => of(3).sum({ keepDims: true } as unknown as number),
    ShapeError,
  ],
  ["roll: `shifts` (= 1.5) must be whole numbers.", () => of(3).roll(1.5), ConfigError],
  ["rearrange: `b` (= -2) must be a whole number from 0.", () => of(2, 6).rearrange("a (b c) -> a b c", { b: -2 }), ConfigError],
  ["rearrange: a pattern is a string", () => of(2, 6).rearrange([2, 6]), FormatError],
  ['reduce: `fold` (= "toString") is not known.', () => of(2, 6).reduce("a b -> a", "toString"), ConfigError],
  // random numbers
  [
    "uniform: a key is int32 [2], got 0. Make one with key(seed), or take a row of split(key).",
    () => L.random.uniform(0, [2]),
    ShapeError,
  ],
  ["normal: a shape is a list of whole numbers, got 3.", () => L.random.normal(L.random.key(0), 3), ShapeError],
  [
    "uniform: `max` is not an option. There are low, high, dtype.",
    () => L.random.uniform(L.random.key(0), [2], { max: 1 }),
    ConfigError,
  ],
  // derivatives and compilation
  ["grad: a differentiated function takes and gives tensors, got a number.", () => L.grad(() => 3)(of(3)), ConfigError],
  ["backward: derivatives need floating-point values, got int32.", () => L.tensor(3, { dtype: "int32" }).backward(), DTypeError],
  ["backward: this value does not depend on any variable that requires a gradient.", () => of(3).sum().backward(), ConfigError],
  [
    "withVjp: `backward` gave 0 cotangents for 1 inputs.",
    () =>
      L.grad((x: Tensor) =>
        L.withVjp(
          (y: Tensor) => y,
          () => [],
        )(x).sum(),
      )(of(3)),
    ConfigError,
  ],
  [
    "withVjp: the cotangent of input 0 is [], the input [3].",
    () =>
      L.grad((x: Tensor) =>
        L.withVjp(
          (y: Tensor) => y,
          () => [of()],
        )(x).sum(),
      )(of(3)),
    ShapeError,
  ],
  [
    "perSampleGradients: tensors of the batch have 2 and 3 rows.",
    () => L.perSampleGradients(() => of(), [of(3)], [of(2, 3), of(3, 3)]),
    ShapeError,
  ],
  [
    "compile: a compiled function takes and gives tensors, lists and objects of them, got 3.",
    () => L.compile((x: Tensor) => x)(3),
    ConfigError,
  ],
  [
    "compile: a compiled function takes and gives tensors, lists and objects of them, got undefined.",
    () => L.compile(() => {})(of(3)),
    ConfigError,
  ],
  [
    "compile: the values of [1] are not known while a function is traced. Return the tensor, and read it outside of the function.",
    () => L.compile((x: Tensor) => L.tensor(x.item()))(of(1)),
    ConfigError,
  ],
  // variables and devices
  ["Variable: a variable holds a tensor, got a number. Use tensor(…).", () => new L.Variable(3), DTypeError],
  ["assign: a variable holds a tensor, got a number.", () => new L.Variable(of(3)).assign(3), DTypeError],
  ['to: needs a device, got "wasm". Make one with devices.wasm() or devices.reference().', () => of(3).to("wasm"), DeviceError],
  ['useDevice: needs a device, got "wasm".', () => L.useDevice("wasm"), DeviceError],
  ["wasm: `thread` is not an option. Did you mean `threads`?", () => L.createWasm({ thread: 2 }), ConfigError],
  ["wasm: `maximumBytes` (= -5) must be a number above 0, or Infinity.", () => L.createWasm({ maximumBytes: -5 }), ConfigError],
];

describe("errors when called", () => {
  test.each(cases)("%s", (message, act, kind) => {
    let error: unknown;
    try {
      act();
    } catch (caught) {
      error = caught;
    }
    expect(error).toBeInstanceOf(kind);
    const { message: text, operation, stack } = error as LorikeetError;
    expect(text).toContain(message);
    expect(text).not.toContain("\n");
    expect(text.startsWith(`${operation}: `)).toBe(true);
    expect(text).toMatch(/[.?]$/);
    expect(stack).toContain(text);
  });
});

describe("errors when run", () => {
  test.each<Case>([
    ["take: index 7 is outside a table of 2 rows.", () => of(2, 3).at([7]), ShapeError],
    ["take: index -1 is outside a table of 2 rows.", () => of(2, 3).take([-1]), ShapeError],
    ["gather: an index is outside its axis of 2. Indices count from 0.", () => of(2, 3).gather([[7]], 0), ShapeError],
    ["scatter: an index is outside its axis of 2.", () => of(2, 3).scatterAdd([[7]], [[1]], 0), ShapeError],
    ["scatter: an index is outside its axis of 2.", () => of(2, 3).scatter([[7]], [[1]], 0), ShapeError],
  ])("%s", (message, act, kind) => {
    const x = act() as Tensor;
    const before = device.statistics.buffers;
    expect(() => x.dataSync()).toThrow(message);
    expect(() => x.dataSync()).toThrow(kind);
    expect(device.statistics.buffers).toBe(before);
    expect(lorikeet.tensor([1, 2]).add(1).toArray()).toEqual([2, 3]);
  });

  test("what does not fit the memory is refused with its size, and smaller things go on", () => {
    const x = lorikeet
      .tensor([1])
      .broadcastTo([2 ** 20, 2 ** 12])
      .add(lorikeet.arange(2 ** 12));
    expect(() => x.realize()).toThrow(/allocate: 17,179,869,184 bytes do not fit/);
    expect(() => x.realize()).toThrow(DeviceError);
    expect(lorikeet.tensor([1, 2]).add(1).toArray()).toEqual([2, 3]);
  });

  test("an error in a compiled function leaves its variables as they were", () => {
    const count = new lorikeet.Variable(lorikeet.tensor([1, 2]));
    const step = lorikeet.compile((index: Tensor) => {
      count.assign(count.value.add(count.value.take(index)));
      return count.value.sum();
    });
    const index = (i: number) => lorikeet.tensor([i], { dtype: "int32" });
    expect(step(index(0)).item()).toBe(5);
    expect(() => step(index(9))).toThrow("take: index 9 is outside a table of 2 rows.");
    expect(count.value.toArray()).toEqual([2, 3]);
    expect(step(index(1)).item()).toBe(11);
  });
});

describe("values that Python has too", () => {
  test("numbers that an integer dtype cannot hold are float32 beside it, not other numbers", () => {
    const x = lorikeet.tensor([1], { dtype: "int32" });
    expect([x.add(2).dtype, x.add(2 ** 31).dtype]).toEqual(["int32", "float32"]);
    expect(x.less(2 ** 31).toArray()).toEqual([true]);
  });

  test("a list of numbers and booleans is numbers", () => {
    expect(lorikeet.tensor([true, 2]).print()).toBe("[1 2] float32 [2]");
    expect(lorikeet.tensor([true, false]).dtype).toBe("bool");
  });

  test("whole numbers divide without rounding on every device", () => {
    const n = lorikeet.arange(1, 200);
    expect(n.div(n).equal(1).all().item()).toBe(1);
    expect(n.mul(7).div(7).equal(n).all().item()).toBe(1);
  });
});
