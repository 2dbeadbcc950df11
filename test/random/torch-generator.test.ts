import { stat } from "node:fs/promises";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { ConfigError } from "../../src/errors.ts";
import { readSafetensors } from "../../src/formats/safetensors.ts";
import { TorchGenerator } from "../../src/random/torch-generator.ts";

const golden = process.env["GOLDEN_DIR"] ?? "test/fixtures";

/** Values as PyTorch prints them, within the last printed digit and the freedom of float32 cosines. */
function expectClose(got: ArrayLike<number>, want: readonly number[], tolerance = 1e-6): void {
  expect(got.length).toBe(want.length);
  want.forEach((value, i) => {
    expect(Math.abs((got[i] as number) - value), `element ${i}`).toBeLessThanOrEqual(tolerance);
  });
}

describe("the stream of a seed", () => {
  it.each([
    [0, [2357136044, 2546248239, 3071714933, 3626093760]],
    [777, [655685735, 2776480559, 1298611771, 862112678]],
  ])("%d begins as PyTorch's", (seed, words) => {
    const generator = new TorchGenerator(seed);
    expect(words.map(() => generator.u32())).toEqual(words);
  });

  it("is MT19937's: the 10,000th word of seed 5489 is 4123659995", () => {
    // the check value of the C++ standard, [rand.predef]
    const generator = new TorchGenerator(5489);
    for (let i = 1; i < 10_000; i++) generator.u32();
    expect(generator.u32()).toBe(4123659995);
  });

  it("depends on the low 32 bits of the seed only", () => {
    const first = (seed: number | bigint) => new TorchGenerator(seed).u32();
    expect(first(2 ** 32 + 7)).toBe(first(7));
    expect(first(-1)).toBe(first(0xffffffff));
    expect(first(2n ** 63n + 7n)).toBe(first(7));
    expect(() => new TorchGenerator(0.5)).toThrow("TorchGenerator: `seed` (= 0.5) must be an integer.");
    expect(() => new TorchGenerator(2 ** 60)).toThrow(ConfigError);
  });

  it("gives 64 bits from two words, the upper half first", () => {
    expect(new TorchGenerator(0).u64()).toBe((2357136044n << 32n) | 2546248239n);
  });
});

describe("uniform", () => {
  it("equals torch.rand to the bit", () => {
    const values = new TorchGenerator(0).uniform(4);
    expect([...values]).toEqual([0.49625658988952637, 0.7682217955589294, 0.08847743272781372, 0.13203048706054688]);
  });

  it("rounds lo + k·2⁻²⁴·(hi - lo) once, for any bounds", () => {
    const bound = fc.float({ noNaN: true, noDefaultInfinity: true, min: Math.fround(-1e30), max: Math.fround(1e30) });
    fc.assert(
      fc.property(bound, bound, fc.nat(), (a, b, seed) => {
        const [lo, hi] = a < b ? [a, b] : [b, a];
        const width = Math.fround(hi - lo);
        fc.pre(Number.isFinite(width));
        const words = new TorchGenerator(seed);
        for (const value of new TorchGenerator(seed).uniform(40, lo, hi))
          expect(value).toBe(roundedOnce(words.u32() & 0xffffff, width, lo));
      }),
      { numRuns: 300 },
    );
  });

  it("rounds once where rounding twice goes wrong", () => {
    // 3·k·2⁻²⁴ is often half-way between two float32 values; a tiny lo decides which, but no double holds the sum
    for (const lo of [1e-20, -1e-20].map(Math.fround)) {
      const words = new TorchGenerator(0);
      let wrong = 0;
      for (const value of new TorchGenerator(0).uniform(1000, lo, 3)) {
        const k = words.u32() & 0xffffff;
        expect(value).toBe(roundedOnce(k, 3, lo));
        if (Math.fround(k * 2 ** -24 * 3 + lo) !== value) wrong++;
      }
      expect(wrong).toBeGreaterThan(50);
    }
  });

  it("in float64 takes 53 bits of two words", () => {
    const words = new TorchGenerator(3);
    const values = new TorchGenerator(3).uniform64(20);
    for (const value of values) expect(value).toBe(Number(words.u64() & (2n ** 53n - 1n)) / 2 ** 53);
    for (const value of new TorchGenerator(3).uniform64(20, -2, 3)) expect(value >= -2 && value < 3).toBe(true);
  });

  it("draws 10 million values in about a second at most", () => {
    const start = process.cpuUsage(); // not the clock: other programs may have the core
    new TorchGenerator(1).uniform(1e7, -0.1, 0.1);
    expect(process.cpuUsage(start).user / 1000).toBeLessThan(3000); // 0.25 s alone
  });
});

/** fl32(k · 2⁻²⁴ · width + lo) from exact integer arithmetic. */
function roundedOnce(k: number, width: number, lo: number): number {
  const scale = 200n; // float32 values are multiples of 2⁻¹⁴⁹
  const exact = (x: number): bigint => {
    let exponent = 0;
    while (!Number.isInteger(x)) {
      x *= 2;
      exponent++;
    }
    return BigInt(x) << (scale - BigInt(exponent));
  };
  const sum = ((exact(width) * BigInt(k)) >> 24n) + exact(lo); // 2⁻²⁰⁰⁺²⁴ is below any bit of width
  return roundToFloat32(sum, scale);
}

/** The float32 nearest to sum · 2⁻ˢᶜᵃˡᵉ, ties to even. */
function roundToFloat32(sum: bigint, scale: bigint): number {
  const negative = sum < 0n;
  const magnitude = negative ? -sum : sum;
  const length = magnitude.toString(2).length;
  // keep 24 bits, or what lies above 2⁻¹⁴⁹ for subnormals
  const dropped = BigInt(Math.max(length - 24, Number(scale) - 149, 0));
  let kept = magnitude >> dropped;
  const rest = magnitude & ((1n << dropped) - 1n);
  const half = dropped === 0n ? 1n : 1n << (dropped - 1n);
  if (dropped > 0n && (rest > half || (rest === half && (kept & 1n) === 1n))) kept += 1n;
  return (negative ? -1 : 1) * Number(kept) * 2 ** Number(dropped - scale);
}

describe("randn", () => {
  it("of fewer than 16 values equals PyTorch's", () => {
    expectClose(new TorchGenerator(0).randn(5), [1.5409961, -0.2934289, -2.1787894, 0.5684313, -1.0845224]);
  });

  it("keeps the second value of a pair for the next call", () => {
    const generator = new TorchGenerator(0);
    const calls = [...generator.randn(1), ...generator.randn(3), ...generator.randn(1)];
    expect(calls).toEqual([...new TorchGenerator(0).randn(5)]);
  });

  it("of 16 values and more equals PyTorch's other path", () => {
    expectClose(
      new TorchGenerator(0).randn(16).subarray(0, 8),
      [-1.1258, -1.1524, -0.2506, -0.4339, 0.8487, 0.692, -0.316, -2.1152],
      6e-5,
    );
    // TinyLoRA's P = randn(32) / √2 of seed 42, as PEFT saved it
    const P = new TorchGenerator(42).normal(32, 0, Math.SQRT1_2);
    expectClose(P.subarray(0, 4), [1.3625348806381226, 1.051668643951416, 0.6369032263755798, -1.488828182220459]);
    expectClose(P.subarray(28), [-0.16378311812877655, 0.02952841855585575, -0.1778905838727951, 0.608011782169342]);
  });

  it("draws the last 16 anew when they do not fill a block", () => {
    for (const n of [17, 20, 31, 40]) {
      const full = n - (n % 16);
      const values = new TorchGenerator(9).randn(n);
      expect([...values.subarray(0, n - 16)]).toEqual([...new TorchGenerator(9).randn(full).subarray(0, n - 16)]);
      const later = new TorchGenerator(9);
      later.uniform(n);
      expect([...values.subarray(n - 16)]).toEqual([...later.randn(16)]);
    }
  });

  it("in float64 follows the same two paths", () => {
    const small = new TorchGenerator(0).randn64(5);
    expectClose(small, [...new TorchGenerator(0).randn(5)], 2e-7);
    const words = new TorchGenerator(4);
    const uniforms = words.uniform64(16);
    const values = new TorchGenerator(4).randn64(16);
    const radius = Math.sqrt(-2 * Math.log(1 - (uniforms[0] as number)));
    expect(values[0]).toBeCloseTo(radius * Math.cos(2 * Math.PI * (uniforms[8] as number)), 14);
    expect(values[8]).toBeCloseTo(radius * Math.sin(2 * Math.PI * (uniforms[8] as number)), 14);
    const tail = new TorchGenerator(4).randn64(20);
    const later = new TorchGenerator(4);
    later.uniform64(20);
    expect([...tail.subarray(4)]).toEqual([...later.randn64(16)]);
  });

  it("has mean 0 and variance 1", () => {
    const values = new TorchGenerator(11).randn(200_001);
    let sum = 0;
    let squares = 0;
    for (const value of values) {
      sum += value;
      squares += value * value;
    }
    expect(Math.abs(sum / values.length)).toBeLessThan(5 / Math.sqrt(values.length));
    expect(Math.abs(squares / values.length - 1)).toBeLessThan((5 * Math.SQRT2) / Math.sqrt(values.length));
  });
});

describe("randint and randperm", () => {
  it("randint takes a word modulo the range", () => {
    const words = new TorchGenerator(5);
    for (const value of new TorchGenerator(5).randint(50, -3, 14)) expect(value).toBe(-3 + (words.u32() % 17));
    expect(() => new TorchGenerator(0).randint(1, 2, 2)).toThrow(
      "randint: `lo` (= 2) and `hi` (= 2) must be integers with lo < hi that fit 32 bits.",
    );
    expect(new TorchGenerator(0).randint(3, -(2 ** 31), 2 ** 31)).toEqual(
      new Int32Array([2357136044 - 2 ** 31, 2546248239 - 2 ** 31, 3071714933 - 2 ** 31]),
    );
  });

  it("randperm(10) of seed 777 equals PyTorch's", () => {
    expect([...new TorchGenerator(777).randperm(10)]).toEqual([5, 9, 0, 3, 1, 7, 4, 8, 6, 2]);
  });

  it("randperm gives every number once, and its beginning without the rest", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 300 }), fc.nat(), fc.double({ min: 0, max: 1, noNaN: true }), (n, seed, part) => {
        const whole = new TorchGenerator(seed).randperm(n);
        expect([...whole].sort((a, b) => a - b)).toEqual([...whole.keys()]);
        const k = Math.floor(part * n);
        expect(new TorchGenerator(seed).randperm(n, k)).toEqual(whole.slice(0, k));
      }),
    );
  });

  it("randperm takes little memory for few of many", () => {
    expect(new Set(new TorchGenerator(1).randperm(2e8, 1000)).size).toBe(1000);
    expect(() => new TorchGenerator(1).randperm(5, 6)).toThrow(
      "randperm: `n` (= 5) and `k` (= 6) must be integers with 0 ≤ k ≤ n ≤ 2³¹.",
    );
  });
});

describe("adapters that store a seed", () => {
  it("VeRA's projections come out to the bit", async (context) => {
    const folder = join(golden, "peft/vera_llama/adapter");
    if (!(await stat(folder).catch(() => undefined))) context.skip();
    const { tensors } = await readSafetensors(join(folder, "adapter_model.safetensors"));
    const A = tensors.get("base_model.vera_A");
    const B = tensors.get("base_model.vera_B");
    if (A === undefined || B === undefined) return context.skip();
    const generator = new TorchGenerator(0);
    for (const tensor of [A, B]) {
      const [rows = 0, columns = 0] = tensor.shape;
      const bound = (Math.sqrt(3) * Math.SQRT2) / Math.sqrt(columns);
      expect(generator.uniform(rows * columns, -bound, bound)).toEqual(await tensor.load());
    }
  });

  it("TinyLoRA's fixed matrices agree to float32's last bits", async (context) => {
    const folder = join(golden, "peft/tinylora_llama/adapter");
    if (!(await stat(folder).catch(() => undefined))) context.skip();
    const { tensors } = await readSafetensors(join(folder, "adapter_model.safetensors"));
    let layer = 0;
    for (const tensor of tensors.values()) {
      if (!tensor.name.endsWith(".tinylora_P")) continue;
      const want = await tensor.load();
      expectClose(
        new TorchGenerator(42 + layer++).normal(want.length, 0, 1 / Math.sqrt(tensor.shape.at(-1) as number)),
        [...want],
        5e-7,
      );
    }
    expect(layer).toBeGreaterThan(0);
  });
});
