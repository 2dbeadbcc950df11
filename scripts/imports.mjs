// npm run imports: the order of layers, circular imports, entry points, declared packages and file names (rules in layers.mjs).
// Parsed with oxc through vite, because dependency-cruiser reads TypeScript with a compiler API that TypeScript 7 does not have.
import { existsSync, readFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { dirname, join, posix } from "node:path";
import { parseSync } from "vite";
import { belowFoundations, emptyNames, exceptions, foundations, kernels, layers, mutual, typesOnly } from "./layers.mjs";
import { filesBelow, root } from "./prepare.mjs";

const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const packages = Object.keys({ ...manifest.dependencies, ...manifest.peerDependencies, ...manifest.optionalDependencies });
const entryPoints = Object.values(manifest.exports)
  .filter((target) => typeof target === "object")
  .map((target) => target.default.replace(/^\.\/dist\//, "").replace(/\.js$/, ".ts"));

const startsWithAny = (path, beginnings) => beginnings.some((beginning) => path.startsWith(beginning));
const layerOf = (path) => layers.findIndex((layer) => path.startsWith(`src/${layer}/`));
const matches = (rule, from, to) => from.startsWith(rule.from) && to.startsWith(rule.to);

/** The `import("x")` of types, which the module record leaves out. */
function* typeImports(node) {
  if (Array.isArray(node)) for (const item of node) yield* typeImports(item);
  else if (node && typeof node === "object") {
    if (node.type === "TSImportType") yield node.source?.value ?? node.argument?.literal?.value;
    for (const value of Object.values(node)) yield* typeImports(value);
  }
}

/** [{ specifier, typeOnly }] of one file. */
export function importsOf(path, text) {
  const { module, program, errors } = parseSync(path, text);
  if (errors.length > 0) throw new SyntaxError(`${path}: ${errors[0].message}`);
  const ofEntries = (specifier, entries) => ({
    specifier,
    typeOnly: entries.length > 0 && entries.every((entry) => entry.isType),
  });
  const found = module.staticImports.map((i) => ofEntries(i.moduleRequest.value, i.entries));
  for (const { entries } of module.staticExports) {
    for (const entry of entries) if (entry.moduleRequest) found.push(ofEntries(entry.moduleRequest.value, [entry]));
  }
  for (const { moduleRequest } of module.dynamicImports) {
    const literal = /^["'`]([^"'`$]+)["'`]$/.exec(text.slice(moduleRequest.start, moduleRequest.end));
    if (literal) found.push({ specifier: literal[1], typeOnly: false });
  }
  for (const specifier of text.includes("import(") ? typeImports(program.body) : []) found.push({ specifier, typeOnly: true });
  return found;
}

/** Why `from` may not import `to`, or null. Both are paths from the root. */
export function complaint(from, to, typeOnly) {
  if (!startsWithAny(from, ["src/", "kernels/"])) return null;
  if (!startsWithAny(to, ["src/", "kernels/"])) return "the library imports nothing outside src and kernels";
  if (exceptions.some((rule) => matches(rule, from, to) && (typeOnly || !rule.typeOnly))) return null;
  if (!typeOnly && typesOnly.some((rule) => matches(rule, from, to))) return "only types may be imported here (import type)";
  if (entryPoints.includes(to) && !entryPoints.includes(from) && !from.startsWith("src/cli/"))
    return "an entry point is for users; import the file itself";
  if (entryPoints.includes(from) && layerOf(from) < 0) return null;
  if (to.startsWith("kernels/"))
    return startsWithAny(from, kernels.importedBy) ? null : "kernels are imported by devices and linalg only";
  if (startsWithAny(to, foundations)) return null;
  if (from.startsWith("kernels/"))
    return startsWithAny(to, kernels.mayImport) ? null : "a kernel knows only the assembler and element types";
  if (startsWithAny(from, foundations))
    return startsWithAny(to, belowFoundations) ? null : "errors and random know nothing of the layers";
  const [a, b] = [layerOf(from), layerOf(to)];
  if (a < 0) return "this file is in no layer; add its folder to scripts/layers.mjs";
  if (b < 0) return "the imported file is in no layer; add its folder to scripts/layers.mjs";
  return b <= a ? null : `${layers[a]} is above ${layers[b]}: an import may only go up the list`;
}

/** Every circle of `edges` (path → paths), once each, as a list of paths. */
export function circles(edges) {
  const state = new Map();
  const stack = [];
  const found = [];
  const visit = (path) => {
    state.set(path, "open");
    stack.push(path);
    for (const next of edges.get(path) ?? []) {
      if (state.get(next) === "open") found.push([...stack.slice(stack.indexOf(next)), next]);
      else if (!state.has(next)) visit(next);
    }
    stack.pop();
    state.set(path, "closed");
  };
  for (const path of edges.keys()) if (!state.has(path)) visit(path);
  return found;
}

function check() {
  const problems = new Set();
  const edges = new Map(); // imports of values: a circle of types alone is erased and harmless
  let count = 0;
  const files = ["src", "kernels", "bench", "examples", "test"].flatMap((folder) => filesBelow(folder, [".ts"]));
  for (const from of files) {
    const library = startsWithAny(from, ["src/", "kernels/"]);
    const name = from.split("/").find((part) => emptyNames.includes(part.replace(/\.ts$/, "")));
    if (name && from.split("/")[1] !== "types") problems.add(`${from}: "${name}" does not say what is inside; name the idea`);
    if (from.endsWith("/index.ts") && !entryPoints.includes(from))
      problems.add(`${from}: index.ts is for the entry points in package.json`);
    const seen = new Set();
    edges.set(from, seen);
    for (const { specifier, typeOnly } of importsOf(from, readFileSync(join(root, from), "utf8"))) {
      if (!specifier.startsWith(".")) {
        const declared = specifier.startsWith("node:") || packages.some((name) => `${specifier}/`.startsWith(`${name}/`));
        if (builtinModules.includes(specifier)) problems.add(`${from} → ${specifier}: write node:${specifier}`);
        else if (library && !declared) problems.add(`${from} → ${specifier}: not among the dependencies in package.json`);
        continue;
      }
      const to = posix.join(dirname(from), specifier);
      if (!existsSync(join(root, to))) {
        problems.add(`${from} → ${specifier}: no such file (the .ts ending is written out)`);
        continue;
      }
      const why = complaint(from, to, typeOnly);
      if (why) problems.add(`${from} → ${to}: ${why}`);
      count += 1;
      if (!typeOnly && !(mutual.includes(from) && mutual.includes(to))) seen.add(to);
    }
  }
  for (const circle of circles(edges)) problems.add(`circular import: ${circle.join(" → ")}`);
  for (const problem of problems) console.log(problem);
  console.log(`imports: ${files.length} files, ${count} imports, ${problems.size} problems`);
  return problems.size === 0;
}

if (process.argv[1] === join(root, "scripts/imports.mjs")) process.exitCode = check() ? 0 : 1;
