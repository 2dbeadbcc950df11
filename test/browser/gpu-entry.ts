/** The gpu device in a bundle: `window.probe()` tries the modes that a graphics card runs. */
import { devices, probeDevices } from "lorikeet";

const modes = ["webgpu", "webgl2"] as const;

Object.assign(globalThis, {
  probe: () =>
    probeDevices({
      among: modes.map((mode) => ({ name: "gpu", mode, open: () => devices.gpu({ mode }) })),
      patience: 120_000, // the processor stands in for the card, on a machine with more to do
    }),
});
