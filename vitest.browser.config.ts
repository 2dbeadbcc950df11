/** `npm run test:browser`: laws and tests that need a browser, in headless Chromium with its software devices. */
import { playwright } from "@vitest/browser-playwright";
import { defineConfig } from "vitest/config";
import { softwareGraphics } from "./bench/chromium.ts";
import { kernelTexts } from "./scripts/kernel-text.mjs";

/** Compiling a kernel takes a tenth of a second on WebGL: fewer cases than in Node. */
const environment = {
  LORIKEET_LAW_SCALE: process.env["LORIKEET_LAW_SCALE"] ?? "0.1",
  LORIKEET_LAW_SEED: process.env["LORIKEET_LAW_SEED"] ?? "1",
};

export default defineConfig({
  plugins: [kernelTexts()],
  define: { "process.env": JSON.stringify(environment) },
  optimizeDeps: { include: ["gpu.js", "fast-check", "typed-function"] },
  // one page of the browser a file, one after the other: each opens GPU devices of its own
  test: {
    include: [
      "test/laws/devices-agree.law.ts",
      "test/laws/gradients-on-gpu.law.ts",
      "test/gpu/pitfalls.test.ts",
      "test/in-browser/**/*.test.ts",
    ],
    setupFiles: ["test/arbitrary/seed.ts"],
    testTimeout: 300_000,
    hookTimeout: 120_000,
    fileParallelism: false,
    browser: {
      enabled: true,
      headless: true,
      screenshotFailures: false,
      // the first page waits until Vite has bundled the packages, beside the other suites
      connectTimeout: 300_000,
      provider: playwright({
        launchOptions: {
          executablePath: process.env["CHROMIUM_PATH"] ?? "/usr/bin/chromium",
          args: ["--no-sandbox", "--disable-gpu-sandbox", ...softwareGraphics],
        },
      }),
      instances: [{ browser: "chromium" }],
    },
  },
});
