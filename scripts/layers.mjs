// The one list behind the import order (CONTRIBUTING.md, "Where things live"): a layer may import itself and the layers before it.
export const layers = [
  "graph",
  "autograd",
  "compile",
  "devices",
  "tensor",
  "linalg",
  "nn",
  "optim",
  "models",
  "formats",
  "text",
  "peft",
  "train",
  "cli",
];

/** Importable from everywhere; they may import only each other and element types. */
export const foundations = ["src/errors.ts", "src/random/"];

/** What a foundation may take from the layers. */
export const belowFoundations = ["src/graph/dtype.ts"];

/** Hand-tuned kernels are used by devices and by factorisations only, and know only what they are written in. */
export const kernels = {
  importedBy: ["src/devices/", "src/linalg/", "kernels/"],
  mayImport: [
    "kernels/",
    "src/devices/wasm/assembler.ts",
    "src/devices/wasm/opcodes.ts",
    "src/devices/wasm/features.ts",
    "src/devices/wasm/simd",
    "src/graph/dtype.ts",
  ],
};

/** Imports against the order, each with its reason. `from` and `to` are beginnings of paths. */
export const exceptions = [
  {
    from: "src/compile/",
    to: "src/devices/device.ts",
    why: "the compiler hands programs to the device interface, not to a device",
  },
  { from: "src/compile/", to: "src/devices/loop-program.ts", why: "the language of that interface: what a device runs" },
  {
    from: "src/graph/",
    to: "src/devices/wasm/",
    typeOnly: true,
    why: "an elementwise entry states its SIMD form in the assembler's types",
  },
];

/** In order, but only as types: reading files and text needs the shape of a model, never its code. */
export const typesOnly = [
  { from: "src/formats/", to: "src/nn/" },
  { from: "src/formats/", to: "src/models/" },
  { from: "src/text/", to: "src/nn/" },
  { from: "src/text/", to: "src/models/" },
];

/**
 * Files that may import each other in a circle: the derivative of one family of primitives is written with another
 * (expand ↔ sum). Only functions called later may cross; nothing at module load. Everywhere else a circle is an error.
 */
export const mutual = ["movement", "elementwise", "reduction", "contraction", "indexing", "source"].map(
  (family) => `src/graph/${family}.ts`,
);

/** Names that say nothing about the idea inside. */
export const emptyNames = ["util", "utils", "helper", "helpers", "common", "misc", "types"];
