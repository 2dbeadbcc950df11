/** The probe in a browser: both kinds of GPU access compute what they should. */
import { expect, test } from "vitest";
import { devices } from "../../src/devices/choose.ts";
import { probe } from "../../src/devices/probe.ts";

test.each(["webgpu", "webgl2", "webgl", "webasm", "cpu"] as const)("mode %s is right", async (mode) => {
  const { report, device } = await probe({ name: "gpu", mode, open: () => devices.gpu({ mode }) }, 120_000);
  console.log(JSON.stringify(report));
  device?.[Symbol.dispose]();
  expect(report).toMatchObject({ works: true, about: `gpu: GPU.js, mode ${mode}` });
});
