// `npm ci` refuses a lock file that lacks an optional package of any platform; seen with a registry that held only some of them.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { expect, it } from "vitest";

it("the lock file names every optional package of every platform", () => {
  const text = readFileSync(resolve(import.meta.dirname, "../../package-lock.json"), "utf8");
  const packages = JSON.parse(text).packages as Record<string, { optionalDependencies?: Record<string, string> }>;
  const missing = Object.entries(packages).flatMap(([path, { optionalDependencies = {} }]) =>
    Object.keys(optionalDependencies).filter(
      (name) => !packages[`node_modules/${name}`] && !packages[`${path}/node_modules/${name}`],
    ),
  );
  expect(missing).toEqual([]);
});
