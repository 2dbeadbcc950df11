/** What `npm run bench -- gpu --node` computes on: Dawn is asked in a process of its own, as the engines' scripts are run. */
import { join } from "node:path";
import { processOutput } from "./comparison.ts";
import { benchFolder } from "./peer-engines.ts";

/**
 * The adapter that Dawn finds, in words, and Dawn's version.
 *
 * @param peersFolder where the package webgpu lies
 * @throws {Error} where Dawn finds none
 */
export async function adapterOfNode(peersFolder: string): Promise<Record<string, string>> {
  const { text, note } = await processOutput(
    process.execPath,
    [join(benchFolder, "peers/adapter.mjs"), "dawn=1"],
    peersFolder,
    60,
  );
  const line = text.split("\n").find((one) => one.startsWith("{"));
  if (!line)
    throw new Error(
      `bench: Dawn finds no graphics card here: ${note ?? "no adapter"}. It needs a Vulkan driver; see docs/gpu.md`,
    );
  return JSON.parse(line);
}
