// node scripts/node-bundle.mjs: the entry points once more, for Node, in few files below dist/node. Node takes about a millisecond for
// each file that it imports, and there are hundreds of them. Bundlers get the single files of dist/src, of which they leave out what is not used.
import { copyFileSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { build } from "esbuild";
import { root } from "./prepare.mjs";

const { exports, dependencies, peerDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const entries = Object.values(exports).flatMap((entry) => (entry.node ? [entry] : []));
rmSync(join(root, "dist/node"), { recursive: true, force: true });
const { metafile } = await build({
  absWorkingDir: root,
  metafile: true,
  entryPoints: entries.map((entry) => ({ in: entry.default, out: entry.node.replace(/^\.\/dist\/node\/(.*)\.js$/, "$1") })),
  outdir: "dist/node",
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  target: "node20.19",
  // typed-function comes along: as a package Node finds it as CommonJS only, which it reads twice
  external: Object.keys({ ...dependencies, ...peerDependencies }).filter((name) => name !== "typed-function"),
  mainFields: ["module", "main"],
  // half of the import is V8 reading text: without comments and indentation it is a quarter less, and all of it ASCII, one byte a letter.
  // Names stay as they are, for stack traces and for the people who read them.
  minifyWhitespace: true,
  // of an error that nobody catches Node prints the whole line
  lineLimit: 200,
  minifySyntax: true,
  // to the files of dist/src, which are in the package, too
  sourcemap: "linked",
  sourcesContent: false,
  logLevel: "warning",
});
// typed-function has a map of its own, to files that it does not bring
for (const path of Object.keys(metafile.outputs).filter((path) => path.endsWith(".map"))) {
  const map = JSON.parse(readFileSync(join(root, path), "utf8"));
  map.sources = map.sources.map((source) => (source.includes("/node_modules/") ? null : source));
  writeFileSync(join(root, path), JSON.stringify(map));
}
// `base.in/n` broken behind the dot is a regular expression behind a keyword to es-module-lexer, by which Vite reads modules: the dot goes along.
// Within texts breaks stand behind a backslash.
const keyword =
  /(?<=[\w$)\]?])\.\n(?=(?:case|debugger|delete|do|else|in|instanceof|new|return|throw|typeof|void|yield|await)\b)/g;
for (const path of Object.keys(metafile.outputs).filter((path) => path.endsWith(".js"))) {
  const text = readFileSync(join(root, path), "utf8");
  const mended = text.replace(keyword, "\n.");
  if (mended !== text) writeFileSync(join(root, path), mended);
}
copyFileSync(join(root, "node_modules/typed-function/LICENSE"), join(root, "dist/node/LICENSE-typed-function"));
