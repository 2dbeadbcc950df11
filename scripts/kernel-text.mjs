// GPU.js translates the functions of kernels/gpu from their text at run time, and knows less of JavaScript than minifiers use: names that
// are taken again, `x--` where x is no integer. So each function carries the text that it was written as, in a string, which a
// minifier leaves alone. `node scripts/kernel-text.mjs` does that in dist/, after the compiler.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { parseSync } from "vite";
import { filesBelow, root } from "./prepare.mjs";

const marker = "// the texts of these functions, for GPU.js";

/** JavaScript with `name.text = "function name…"` for every function that it exports. */
export function withTexts(path, code) {
  if (code.includes(marker)) return code;
  const exported = parseSync(path, code).program.body.flatMap(({ type, declaration }) =>
    type === "ExportNamedDeclaration" && declaration?.type === "FunctionDeclaration" ? [declaration] : [],
  );
  const texts = exported.map(({ id, start, end }) => `${id.name}.text = ${JSON.stringify(code.slice(start, end))};\n`);
  return texts.length === 0 ? code : `${code}\n${marker}\n${texts.join("")}`;
}

/** A plugin of Vite that does the same to the sources, since it names what a module imports otherwise, and minifies. */
export const kernelTexts = () => ({
  name: "texts of kernels",
  transform: (code, id) => (/\/kernels\/gpu\/[^/]+\.ts$/.test(id) ? { code: withTexts(`${id}.js`, code), map: null } : null),
});

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href)
  for (const path of filesBelow("dist/kernels/gpu", [".js"])) {
    const file = join(root, path);
    const code = readFileSync(file, "utf8");
    const changed = withTexts(path, code);
    if (changed !== code) writeFileSync(file, changed);
  }
