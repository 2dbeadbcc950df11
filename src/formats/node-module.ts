/**
 * Modules of Node, looked up when they are needed, so that the files that use them can be imported in a browser. No other file
 * of what is public names their types, so that programs without `@types/node` can read the declarations.
 */
import { ConfigError } from "../errors.ts";

interface NodeModules {
  readonly fs: typeof import("node:fs");
  readonly "fs/promises": typeof import("node:fs/promises");
  readonly path: typeof import("node:path");
  readonly crypto: typeof import("node:crypto");
  readonly os: typeof import("node:os");
  readonly module: typeof import("node:module");
}

const lookUp = <Name extends keyof NodeModules>(name: Name): NodeModules[Name] | undefined =>
  globalThis.process?.getBuiltinModule?.(`node:${name}`) as NodeModules[Name] | undefined;

/**
 * A module of Node.
 *
 * @throws {ConfigError} where there is no file system
 */
export function nodeModule<Name extends keyof NodeModules>(name: Name, operation: string): NodeModules[Name] {
  const found = lookUp(name);
  if (found === undefined)
    throw new ConfigError("paths need a file system, and there is none here.", {
      operation,
      hint: "Pass bytes or a Blob instead.",
    });
  return found;
}

/** The file system that waits, where there is one. */
export const fileSystem = (): NodeModules["fs"] | undefined => lookUp("fs");
