/** `lorikeet doctor`: a line for every way of computing, with its time or why it does not run here. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { expect, test } from "vitest";
import { gpuModes } from "../../src/devices/gpu/backend.ts";
import { lorikeet, root } from "./command.ts";

test("the table has a line for every device and every mode: works with its time, or not with the reason", async () => {
  const { code, stdout } = await lorikeet(["doctor"]);
  const lines = stdout.trim().split("\n");
  const names = ["wasm", "reference", ...gpuModes.map((mode) => `gpu ${mode}`)];
  for (const name of names) {
    const found = lines.filter((line) => line.startsWith(`${name} `));
    expect(found, name).toHaveLength(1);
    expect(found[0]!.slice(name.length).trim(), name).toMatch(/^(works +\d+\.\d ms|no +(as gpu \w+|\S.{20,}))$/);
  }
  expect(lines).toHaveLength(2 + names.length);
  // these run everywhere
  for (const name of ["wasm", "reference", "gpu webasm", "gpu cpu"]) expect(stdout).toMatch(new RegExp(`^${name} +works`, "m"));
  expect(code).toBe(0);
});

test("ends as it would have when whoever read has gone", async () => {
  const child = spawn(process.execPath, [join(root, "dist/src/cli/main.js"), "doctor"], { stdio: ["ignore", "pipe", "pipe"] });
  child.stdout.once("data", () => child.stdout.destroy());
  let told = "";
  child.stderr.on("data", (text) => {
    told += text;
  });
  const [code] = await once(child, "close");
  expect([code, told]).toEqual([0, ""]);
});
