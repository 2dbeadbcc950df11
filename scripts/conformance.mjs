// npm run conformance: adapters and models that lorikeet writes, read by Hugging Face's own peft and transformers, and the other way.
// Needs a Python with both: LORIKEET_PYTHON names one, or `npm run conformance -- --install` makes one, once, from
// test/fixtures/generate/requirements.txt in the user's cache (about 6 GB with what torch brings along; minutes). `.ci/run` does.
// Ends with "N passed, N failed"; without such a Python nothing is tried, which the line says.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { build, install, root, say } from "./prepare.mjs";
import { vitest } from "./vitest.mjs";

const requirements = join(root, "test/fixtures/generate/requirements.txt");
const version = createHash("sha256").update(readFileSync(requirements)).digest("hex").slice(0, 12);
const cache = join(process.env.XDG_CACHE_HOME || join(homedir(), ".cache"), "lorikeet");
/** Where the Python of these very requirements is kept; other versions lie beside it. */
const environment = join(cache, `python-${version}`);

// looked for, not imported, which takes ten seconds
const packages = "all(map(importlib.util.find_spec, ('torch', 'transformers', 'safetensors', 'peft')))";
const hasPeft = (python) =>
  spawnSync(python, ["-c", `import importlib.util, sys; sys.exit(not ${packages})`], { stdio: "ignore" }).status === 0;
const run = (program, ...args) => spawnSync(program, args, { stdio: ["ignore", 2, 2] }).status === 0;

/** Makes the environment beside its place, and moves it there when it is whole: a run that was cut leaves nothing half-made. */
function makeEnvironment() {
  if (existsSync(environment)) return;
  say(`conformance: installing Hugging Face's peft into ${environment}, once ...`);
  mkdirSync(cache, { recursive: true });
  const draft = `${environment}.${process.pid}`;
  // the interpreter's path is found from the environment's own place, so only scripts in bin/ remember the draft, and none is used
  const made =
    run("python3", "-m", "venv", draft) && run(join(draft, "bin/python"), "-m", "pip", "install", "--quiet", "-r", requirements);
  if (made) renameSync(draft, environment);
  else rmSync(draft, { recursive: true, force: true });
}

const wantsInstall = process.argv.includes("--install");
const filters = process.argv.slice(2).filter((argument) => argument !== "--install");
const own = process.env.LORIKEET_PYTHON;
if (wantsInstall && !own) makeEnvironment();
const python = [own, join(environment, "bin/python"), "python3"].filter(Boolean).find(hasPeft);
if (python === undefined) {
  console.log("conformance: not tried, there is no Python with peft; `npm run conformance -- --install` makes one");
  console.log(`0 passed, ${wantsInstall ? 1 : 0} failed`);
  process.exitCode = wantsInstall ? 1 : 0;
} else {
  process.env.LORIKEET_PYTHON = python;
  const config = ["--config", "test/conformance/vitest.config.ts"];
  const { passed, failed } = install() && build() ? await vitest(...config, ...filters) : { passed: 0, failed: 1 };
  console.log(`conformance with ${python}:`);
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed > 0 ? 1 : 0;
}
