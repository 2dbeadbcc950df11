import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    include: ["test/**/*.test.ts", "test/laws/*.law.ts"],
    exclude: ["test/fixtures/**"],
    // fixes the seeds of the laws and counts their cases
    setupFiles: ["test/arbitrary/setup.ts"],
    testTimeout: 30_000,
    hookTimeout: 30_000,
    // A process for each file: engines set process-wide V8 flags and start worker threads of their own.
    pool: "forks",
    maxWorkers: 2,
    reporters: ["default"],
    coverage: { provider: "v8", include: ["src/**"], exclude: ["kernels/gpu/**"] },
  },
});
