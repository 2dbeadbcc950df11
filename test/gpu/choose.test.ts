/** Choosing a device by trying it: one that is wrong, fails or hangs is passed over, with the reason. */
import { expect, test } from "vitest";
import { type Candidate, probe } from "../../src/devices/probe.ts";
import { chooseDevice, createReference, devices, type Probe, probeDevices } from "../../src/index.ts";
import { broken, bugs } from "../arbitrary/broken-device.ts";

const reference: Candidate = { name: "reference", open: () => createReference() };
const wasm: Candidate = { name: "wasm", open: () => devices.wasm({ threads: 1 }) };
const gpu: Candidate = { name: "gpu", mode: "cpu", open: () => devices.gpu({ mode: "cpu" }) };

test("each device that works is reported with its speed", async () => {
  const reports = await probeDevices({ among: [wasm, gpu, reference] });
  expect(reports).toMatchObject([{ works: true }, { works: true, mode: "cpu" }, { works: true }]);
  for (const { milliseconds } of reports) expect(milliseconds).toBeGreaterThan(0);
});

test("a mode that cannot run here says why", async () => {
  const webgl = await probe({ name: "gpu", mode: "webgl2", open: () => devices.gpu({ mode: "webgl2" }) });
  const reason = "mode webgl2 cannot run: only browsers have WebGL; Node has mode headlessgl.";
  expect(webgl.report).toMatchObject({ works: false, reason });
});

test("a device that takes rows for columns is passed over, and the one that is right is opened", async () => {
  const wrong: Candidate = {
    name: "gpu",
    mode: "wrong",
    open: () => broken(createReference({ fuse: true }), bugs["rows of a square factor are taken for columns"]),
  };
  const reports: Probe[] = [];
  using device = await chooseDevice({ among: [wrong, wasm], onProbe: (report) => reports.push(report) });
  expect(device.name).toBe("wasm");
  expect(reports[0]).toMatchObject({ mode: "wrong", works: false });
});

test("a device that hangs is given up", async () => {
  const stuck: Candidate = { name: "gpu", mode: "stuck", open: () => new Promise(() => {}) };
  const [report] = await probeDevices({ among: [stuck], patience: 50 });
  expect(report).toMatchObject({ works: false, reason: "no answer in 0.05 seconds" });
});

test("when none works the reasons are all there", async () => {
  const refusing: Candidate = {
    name: "gpu",
    mode: "broken",
    open: () => {
      throw new Error("driver crashed");
    },
  };
  await expect(chooseDevice({ among: [refusing] })).rejects.toThrow("gpu broken: driver crashed");
});
