/** What `loadModel`, `loadTokenizer` and `loadAdapter` take: a path, a repository of the Hub, or files that a browser has. */
import { nodeModule, wordSystemError } from "./atomic-file.ts";
import { diskFolder, type Folder, filesFolder, type GivenFiles } from "./folder.ts";

/** Where a model is: the path of a folder or of one file, or files that were given, or a folder of another kind. */
export type ModelSource = string | Folder | { readonly files: GivenFiles };

/** How a source is opened. */
export interface SourceOptions {
  /** The one file of a folder that is meant, such as one of several GGUF files. */
  readonly file?: string;
}

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
  const named = options.file === undefined ? {} : { file: options.file };
  if (typeof source !== "string") return { folder: "open" in source ? source : filesFolder(source.files, operation), ...named };
  const fs = nodeModule("fs/promises", operation);
  const { basename, dirname } = nodeModule("path", operation);
  const stat = await fs.stat(source).catch((error) => {
    throw wordSystemError(error, operation, source, "read");
  });
  if (stat.isDirectory()) return { folder: await diskFolder(source, operation), ...named };
  return { folder: await diskFolder(dirname(source), operation), file: basename(source) };
}
