import { defineConfig, type ViteUserConfig } from "vitest/config";
import { kernelTexts } from "./scripts/kernel-text.mjs";

/** Folders of tests that take long; `npm run test:<folder>` runs one of them, and nothing else (scripts/suite.mjs); those in-browser run inside of one (vitest.browser.config.ts). */
const slow = ["browser", "in-browser", "end-to-end", "slow"];
const suite = process.env["LORIKEET_SUITE"];

/**
 * Files with a process to themselves: they set flags of V8, replace what Node has, change folders, count what the collector gives back,
 * or start programs and wait for them. The files of a group below share two processes, which load and optimise the engine once.
 */
const alone = [
  "test/laws/{errors-are-for-people,nothing-leaks}.law.ts",
  "test/compile/collected.test.ts",
  "test/gpu/{choose,kernel-cache,missing}.test.ts",
  "test/wasm/{device,limits,pool}.test.ts",
  "test/formats/hub*.test.ts",
  "test/{bench,docs,project,runtime}/**/*.test.ts",
];
/** Groups run in the order of their names: what takes long comes first, so that no core waits for it at the end. */
const together = { golden: ["test/golden"], laws: ["test/laws"], methods: ["test/peft"], others: ["test"] };

export const settings = {
  // fixes the seed of all that is drawn, and counts the cases of the laws
  setupFiles: ["test/arbitrary/setup.ts"],
  // for what hangs: on a machine with much else to do a test takes twenty times as long as on an idle one
  testTimeout: 300_000,
  hookTimeout: 300_000,
  // processes, not threads: engines set process-wide V8 flags and start worker threads of their own
  pool: "forks",
} satisfies ViteUserConfig["test"];

const plugins = [kernelTexts()];
const exclude = ["test/fixtures/**", ...slow.filter((folder) => folder !== suite).map((folder) => `test/${folder}/**`)];
const filesIn = (folders: readonly string[]) => folders.flatMap((folder) => [`${folder}/**/*.test.ts`, `${folder}/**/*.law.ts`]);
const taken = (group: string) => Object.entries(together).flatMap(([name, folders]) => (name < group ? filesIn(folders) : []));

const projects = [
  { plugins, test: { ...settings, name: "alone", include: alone, exclude } },
  ...Object.entries(together).map(([name, folders]) => ({
    plugins,
    test: {
      ...settings,
      name,
      include: filesIn(folders),
      exclude: [...exclude, ...alone, ...taken(name)],
      isolate: false,
      setupFiles: [...settings.setupFiles, "test/arbitrary/own-device.ts"],
    },
  })),
];

export default defineConfig({
  plugins,
  test: {
    ...settings,
    maxWorkers: 2,
    reporters: ["default"],
    coverage: { provider: "v8", include: ["src/**"], exclude: ["kernels/gpu/**"] },
    ...(suite ? { include: filesIn([`test/${suite}`]), exclude } : { projects }),
  },
});
