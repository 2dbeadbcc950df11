/** Attention and its three derivatives on every variant of the gpu device, against the reference device's composition. */
import { afterAll, describe, expect, test } from "vitest";
import { pullback } from "../../src/autograd/grad.ts";
import { download, realize, upload, useDevice } from "../../src/compile/program.ts";
import type { Device } from "../../src/devices/device.ts";
import { createReference } from "../../src/devices/reference/device.ts";
import { type AttentionOptions, attention } from "../../src/graph/attention.ts";
import { permute } from "../../src/graph/movement.ts";
import type { Variant } from "./devices.ts";
import { randomValues } from "./draw.ts";

interface Case extends AttentionOptions {
  readonly name: string;
  readonly B: number;
  readonly Tq: number;
  readonly Tk: number;
  readonly G: number;
  readonly share: number;
  readonly D: number;
  readonly E: number;
}

const cases: readonly Case[] = [
  { name: "plain", B: 2, Tq: 9, Tk: 9, G: 2, share: 1, D: 5, E: 5 },
  { name: "causal, heads that share keys", B: 2, Tq: 33, Tk: 33, G: 2, share: 3, D: 16, E: 16, isCausal: true },
  { name: "causal over several tiles, ragged", B: 1, Tq: 70, Tk: 70, G: 1, share: 2, D: 20, E: 33, isCausal: true },
  { name: "window", B: 1, Tq: 75, Tk: 75, G: 1, share: 2, D: 8, E: 8, isCausal: true, window: 7 },
  { name: "the last queries of a longer past", B: 1, Tq: 12, Tk: 50, G: 2, share: 2, D: 8, E: 8, isCausal: true },
  { name: "one query, many keys", B: 1, Tq: 1, Tk: 300, G: 2, share: 2, D: 8, E: 8, isCausal: true },
  { name: "queries that see no key", B: 1, Tq: 40, Tk: 10, G: 1, share: 1, D: 8, E: 8, isCausal: true },
  { name: "large scores", B: 1, Tq: 16, Tk: 16, G: 1, share: 1, D: 8, E: 8, scale: 40 },
];

const reference = createReference();

/** Operands lie head by head and are walked token by token, so that strides are not those of their shape. */
export function attentionOn(variants: readonly Variant[]): void {
  describe.each(variants)("$name", ({ open }) => {
    const opened = Promise.resolve(open());
    afterAll(async () => (await opened)[Symbol.dispose]());

    test.each(cases)("$name", async ({ name: _, B, Tq, Tk, G, share, D, E, ...options }) => {
      const build = (on: Device) => {
        useDevice(on);
        const headFirst = (T: number, heads: number, size: number, seed: number) => {
          const values = Float32Array.from(randomValues([B, heads, T, size], [-1, 1], seed));
          return permute(upload(on, values, [B, heads, T, size], "float32"), [0, 2, 1, 3]);
        };
        const sources = [headFirst(Tq, G * share, D, 1), headFirst(Tk, G, D, 2), headFirst(Tk, G, E, 3)] as const;
        const y = attention(...sources, options);
        return [y, ...pullback([y], [headFirst(Tq, G * share, E, 4)], sources).map((gradient) => gradient!)];
      };
      const wanted = build(reference);
      realize(wanted);
      const device = await opened;
      const got = build(device);
      realize(got);
      for (const [i, x] of got.entries()) {
        const [values, want] = [await download(x), await download(wanted[i]!)];
        expect(values.length).toBe(want.length);
        const largest = Math.max(...want.map(Math.abs));
        const worst = Math.max(...Array.from(want, (value, n) => Math.abs(values[n]! - value)));
        // a NaN would pass the other way round
        expect(
          worst <= 4e-6 * Math.max(1, largest) * (options.scale ? 10 : 1),
          `result ${i}: off by ${worst} of ${largest}`,
        ).toBe(true);
      }
    });
  });
}
