// npm run conformance: adapters and models that lorikeet writes, read by Hugging Face's own peft and transformers, and the other way.
// Needs a Python with both, which is never installed here by itself: LORIKEET_PYTHON names one, or .cache/python holds it after
//   python3 -m venv .cache/python && .cache/python/bin/pip install -r test/fixtures/generate/requirements.txt
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { root } from "./prepare.mjs";

const candidates = [process.env.LORIKEET_PYTHON, join(root, ".cache/python/bin/python"), "python3"].filter(Boolean);
const python = candidates.find(
  (each) => spawnSync(each, ["-c", "import torch, transformers, safetensors, peft"], { stdio: "ignore" }).status === 0,
);
if (python === undefined) console.log("conformance: skipped (no Python with peft)");
else {
  const vitest = [join(root, "node_modules/vitest/vitest.mjs"), "run", "--config", "test/conformance/vitest.config.ts"];
  const env = { ...process.env, LORIKEET_PYTHON: python };
  const { status } = spawnSync(process.execPath, [...vitest, ...process.argv.slice(2)], { cwd: root, stdio: "inherit", env });
  console.log(`conformance: ${status === 0 ? "passed" : "failed"} (${python})`);
  process.exitCode = status === 0 ? 0 : 1;
}
