/** What `loadModel`, `loadTokenizer` and `loadAdapter` take: a path, a repository of the Hub, or files that a browser has. */
import { ConfigError, type Rules, requireKind } from "../errors.ts";
import { wordSystemError } from "./atomic-file.ts";
import { diskFolder, type Folder, filesFolder, type GivenFiles, pathIn, requireFolder, wordFolder } from "./folder.ts";
import { type HubOptions, isHubId, openHub } from "./hub.ts";
import { hasFileSystem, hubOptionRules } from "./hub-settings.ts";
import { nodeModule } from "./node-module.ts";

/**
 * Where a model is: the path of a folder or of one file, the name of a repository of the Hub (`owner/name`; a path of that name
 * comes first), files that were given, or a folder of another kind. `"models/tiny"` is the small model of the package.
 */
export type ModelSource = string | Folder | { readonly files: GivenFiles };

/** How a source is opened. */
export interface SourceOptions extends HubOptions {
  /** The one file of a folder that is meant, such as one of several GGUF files. */
  readonly file?: string;
  /** A folder within it that stands for the whole. */
  readonly subfolder?: string;
}

/** What these options may be, for those who check theirs. */
export const sourceOptionRules: Rules<SourceOptions> = { file: "a string", subfolder: "a string", ...hubOptionRules };

/** A folder, and the one file of it that is meant, if a file was named. */
export interface OpenSource {
  readonly folder: Folder;
  readonly file?: string;
}

/**
 * Opens the folder that a source names.
 *
 * @throws {ConfigError} when it cannot be read
 */
export async function openSource(source: ModelSource, operation: string, options: SourceOptions = {}): Promise<OpenSource> {
  requireKind("openSource", "a string", { operation });
  requireKind(operation, "an object", { options });
  const named = options.file === undefined ? {} : { file: options.file };
  const part = (folder: Folder): Folder =>
    options.subfolder === undefined ? folder : within(folder, options.subfolder, operation);
  if (typeof source !== "string")
    return { folder: part(isGiven(source) ? filesFolder(source.files, operation) : opened(source, operation)), ...named };
  if (!hasFileSystem()) return { folder: part(await openHub(source, options)), ...named };
  const fs = nodeModule("fs/promises", operation);
  const { basename, dirname, join } = nodeModule("path", operation);
  const stat = await fs.stat(source).catch((error) => {
    if (error.code === "ENOENT" && isHubId(source)) return undefined;
    throw wordSystemError(error, operation, source, "read");
  });
  if (!stat && source === tinyModel) {
    const own = packageFolder(operation);
    if (own !== undefined) return openSource(join(own, source), operation, options);
  }
  if (!stat) return { folder: part(await hubOrFolder(source, options)), ...named };
  if (stat.isDirectory()) return { folder: await diskFolder(join(source, options.subfolder ?? ""), operation), ...named };
  return { folder: await diskFolder(dirname(source), operation), file: basename(source) };
}

const isGiven = (source: Exclude<ModelSource, string>): source is { readonly files: GivenFiles } =>
  typeof source === "object" && source !== null && "files" in source && !("open" in source);

function opened(source: unknown, operation: string): Folder {
  requireFolder(operation, source);
  return source;
}

/** The small model that comes with the package: it has this name wherever a program runs, unless a folder there has it. */
const tinyModel = "models/tiny";

/** Where the package is installed, also for a bundle that it was made a part of. */
function packageFolder(operation: string): string | undefined {
  try {
    const require = nodeModule("module", operation).createRequire(import.meta.url);
    return nodeModule("path", operation).dirname(require.resolve("lorikeet/package.json"));
  } catch {
    return undefined;
  }
}

/** The files of a folder within a folder, under their names there. @throws {ConfigError} when there are none */
function within(folder: Folder, subfolder: string, operation: string): Folder {
  const prefix = `${subfolder.replace(/\/+$/, "")}/`;
  const files = [...folder.files].flatMap((file) => (file.startsWith(prefix) ? [file.slice(prefix.length)] : []));
  if (files.length === 0)
    throw new ConfigError(`${wordFolder(folder)} has no folder ${JSON.stringify(subfolder)}.`, { operation, got: subfolder });
  return { name: pathIn(folder, prefix.slice(0, -1)), files: new Set(files), open: (file) => folder.open(`${prefix}${file}`) };
}

/** A repository of the Hub; who meant a folder is told that there is none. */
async function hubOrFolder(source: string, options: SourceOptions): Promise<Folder> {
  try {
    return await openHub(source, options);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    throw new ConfigError(`there is no folder ${JSON.stringify(source)} here, and ${error.problem}`, {
      operation: error.operation,
      got: error.got,
      ...(error.hint !== undefined && { hint: error.hint }),
    });
  }
}
