// What a fresh clone needs before anything runs: packages that match the lock file, and `dist/` built from the present sources.
// Plain Node without dependencies, and silent on standard output, which belongs to the program that runs afterwards.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export const root = resolve(fileURLToPath(import.meta.url), "../..");
const inRoot = (...path) => join(root, ...path);
const readJson = (path) => JSON.parse(readFileSync(inRoot(path), "utf8"));

/** One line for people, on standard error. */
export const say = (text) => process.stderr.write(`${text}\n`);

/** Every file below `folder` whose name ends with one of `endings`, as sorted paths relative to the root. */
export function filesBelow(folder, endings) {
  if (!existsSync(inRoot(folder))) return [];
  return readdirSync(inRoot(folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && endings.some((ending) => entry.name.endsWith(ending)))
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)).replaceAll("\\", "/"))
    .sort();
}

/** Runs a program with both its outputs on our standard error. */
const runOnStderr = (program, args) => spawnSync(program, args, { cwd: root, stdio: ["ignore", 2, 2] });

/** Does `node_modules` hold the versions of the lock file? npm notes what it installed in `.package-lock.json`. */
export function isInstalled() {
  if (!existsSync(inRoot("node_modules/.package-lock.json"))) return false;
  const have = readJson("node_modules/.package-lock.json").packages;
  return Object.entries(readJson("package-lock.json").packages).every(
    ([path, { version, optional, peer, devOptional }]) =>
      path === "" || (have[path] ? have[path].version === version : Boolean(optional || peer || devOptional)),
  );
}

/** `npm ci` when the packages are missing or stale. Returns whether they are there afterwards. */
export function install() {
  if (isInstalled()) return true;
  say("lorikeet: installing packages (npm ci), once ...");
  const args = ["ci", "--include=dev", "--no-audit", "--no-fund", "--loglevel=error"];
  const npm = process.env.npm_execpath;
  const done = npm?.endsWith("js")
    ? runOnStderr(process.execPath, [npm, ...args])
    : spawnSync("npm", args, { cwd: root, stdio: ["ignore", 2, 2], shell: process.platform === "win32" });
  if (done.status === 0) return true;
  say("lorikeet: npm ci failed (above). It needs the npm registry once: check the network or proxy, then run the command again.");
  return false;
}

const sourceFolders = ["src", "kernels", "bench"];
const stampFile = "dist/.stamp";

/** A digest of everything that decides what `dist/` holds: the sources, the settings and the packages. */
function sourceDigest() {
  const hash = createHash("sha256");
  const inputs = [
    "tsconfig.json",
    "tsconfig.build.json",
    "package-lock.json",
    "package.json",
    "scripts/kernel-text.mjs",
    "scripts/node-bundle.mjs",
    ...sourceFolders.flatMap((f) => filesBelow(f, [".ts"])),
  ];
  for (const path of inputs)
    hash
      .update(path)
      .update("\0")
      .update(readFileSync(inRoot(path)))
      .update("\0");
  return hash.digest("hex");
}

/** Compiled files whose source is gone would still be imported and packed. */
function removeOrphans() {
  for (const path of sourceFolders.flatMap((folder) => filesBelow(`dist/${folder}`, [".js", ".js.map", ".d.ts"]))) {
    const source = path.replace(/^dist\//, "").replace(/\.(js|d\.ts)$/, ".ts");
    if (!existsSync(inRoot(source)) && !existsSync(inRoot(source.replace(/\.ts$/, ".d.ts"))))
      rmSync(inRoot(path), { force: true });
  }
}

/** Compiles to `dist/` when a source has changed since the last time. Returns whether it is up to date afterwards. */
export function build() {
  const digest = sourceDigest();
  if (existsSync(inRoot(stampFile)) && readFileSync(inRoot(stampFile), "utf8") === digest) return true;
  say("lorikeet: building ...");
  rmSync(inRoot(stampFile), { force: true });
  const compile = () => runOnStderr(process.execPath, [inRoot("node_modules/typescript/bin/tsc"), "-p", "tsconfig.build.json"]);
  let done = compile();
  // what an incremental build remembers can be wrong: TypeScript 7 then finds no Symbol.dispose in classes that have one
  const memory = inRoot("dist/.tsbuildinfo");
  if (done.status !== 0 && existsSync(memory)) {
    rmSync(memory);
    say("lorikeet: building all of it again ...");
    done = compile();
  }
  removeOrphans();
  const steps = ["scripts/kernel-text.mjs", "scripts/node-bundle.mjs"];
  if (done.status !== 0 || steps.some((script) => runOnStderr(process.execPath, [inRoot(script)]).status !== 0)) {
    say("lorikeet: the build failed (above).");
    return false;
  }
  mkdirSync(inRoot("dist"), { recursive: true });
  writeFileSync(inRoot(stampFile), digest);
  return true;
}
