/**
 * Runs before each of the test files that share a process: whoever chooses no device has one of its own, and the shared generator is
 * at its start, as if the process were new.
 */
import { afterAll } from "vitest";
import { useDevice } from "../../src/compile/program.ts";
import { defaultDevice } from "../../src/devices/choose.ts";
import { manualSeed } from "../../src/tensor/random.ts";

const device = defaultDevice();
useDevice(device);
manualSeed(0);
afterAll(() => device[Symbol.dispose]());
