/** How much comes along with a package: on disk when installed, and over the line when bundled for a browser. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

export interface PackageSize {
  readonly name: string;
  /** The package and all it depends on, unpacked. */
  readonly installedBytes: number;
  /** One minified file with all that its entry exports, compressed; absent where it cannot be bundled. */
  readonly bundleBytes?: number;
  /** WebAssembly that the bundle loads besides, compressed. */
  readonly wasmBytes?: number;
}

const bytesBelow = (folder: string): number =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => !path.slice(folder.length).includes("node_modules"))
    .reduce((sum, path) => sum + statSync(path).size, 0);

/** The folders of a package and of everything that it needs, found as Node finds them. */
function closure(names: readonly string[], root: string): string[] {
  const found = new Set<string>();
  const visit = (name: string, from: string): void => {
    for (let at = from; at.startsWith(root); at = join(at, "..")) {
      const folder = join(at, "node_modules", name);
      if (!existsSync(join(folder, "package.json"))) continue;
      if (found.has(folder)) return;
      found.add(folder);
      const { dependencies = {} } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
      for (const dependency of Object.keys(dependencies)) visit(dependency, folder);
      return;
    }
  };
  for (const name of names) visit(name, root);
  return [...found];
}

/** Size of a bundle of `source`, minified and compressed. */
async function bundle(source: string, root: string): Promise<number | undefined> {
  const folder = mkdtempSync(join(root, ".bundle-"));
  try {
    const entry = join(folder, "entry.js");
    writeFileSync(entry, source);
    const { build } = await import("vite");
    const built = await build({
      root: folder,
      logLevel: "silent",
      configFile: false,
      build: { write: false, minify: true, target: "esnext", rollupOptions: { input: entry } },
    });
    const outputs = (Array.isArray(built) ? built : [built]).flatMap((one) => ("output" in one ? one.output : []));
    return outputs.reduce((sum, file) => sum + gzipSync("code" in file ? file.code : file.source).length, 0);
  } catch {
    return undefined;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** A package whole: nothing is left out because nobody uses it. */
const whole = (...paths: readonly string[]): string =>
  `${paths.map((path, i) => `import * as all${i} from ${JSON.stringify(path)};`).join("\n")}\nglobalThis.all = [${paths.map((_, i) => `all${i}`)}];`;

const peers: readonly { readonly name: string; readonly packages: readonly string[]; readonly wasm?: string }[] = [
  { name: "jax-js", packages: ["@jax-js/jax"] },
  {
    name: "tfjs with its wasm backend",
    packages: ["@tensorflow/tfjs", "@tensorflow/tfjs-backend-wasm"],
    wasm: "@tensorflow/tfjs-backend-wasm/dist/tfjs-backend-wasm-simd.wasm",
  },
  { name: "js-pytorch", packages: ["js-pytorch"] },
  { name: "gpu.js", packages: ["gpu.js"] },
];

/** @param folder where the peers are installed */
export async function peerSizes(folder: string): Promise<PackageSize[]> {
  const sizes: PackageSize[] = [];
  for (const { name, packages, wasm } of peers) {
    const bundleBytes = await bundle(whole(...packages), folder);
    sizes.push({
      name,
      installedBytes: closure(packages, folder).reduce((sum, one) => sum + bytesBelow(one), 0),
      ...(bundleBytes !== undefined && { bundleBytes }),
      ...(wasm !== undefined && { wasmBytes: gzipSync(readFileSync(join(folder, "node_modules", wasm))).length }),
    });
  }
  return sizes;
}

/** Our own, as `npm pack` would make it, with the entries that a LoRA step needs. @param root of the repository, built */
export async function ownSize(root: string): Promise<PackageSize> {
  const packed = spawnSync("npm", ["pack", "--dry-run", "--json", "--ignore-scripts"], {
    cwd: root,
    encoding: "utf8",
    shell: process.platform === "win32",
  });
  const { unpackedSize } = (JSON.parse(packed.stdout) as [{ unpackedSize: number }])[0];
  const { dependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const needed = closure(Object.keys(dependencies), root).reduce((sum, one) => sum + bytesBelow(one), 0);
  const entries = ["index", "nn/index", "optim/index", "models/index", "peft/index"];
  const bundleBytes = await bundle(whole(...entries.map((entry) => join(root, "dist/src", `${entry}.js`))), join(root, "dist"));
  return { name: "lorikeet", installedBytes: unpackedSize + needed, ...(bundleBytes !== undefined && { bundleBytes }) };
}
