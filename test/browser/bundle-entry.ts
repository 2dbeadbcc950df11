/** The entry of each bundle: the same script in a page (`window.sample()`) and in a Worker (a message starts it). */
import { type TrainingSample, trainingSample } from "./training-sample.ts";

const modelFiles = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/** Everything is fetched from beside the page. */
async function sample(): Promise<TrainingSample> {
  const read = async (path: string) => new Uint8Array(await (await fetch(new URL(path, location.href))).arrayBuffer());
  const files = await Promise.all(modelFiles.map(async (name) => [name, await read(`tiny/${name}`)] as const));
  return trainingSample(Object.fromEntries(files), new TextDecoder().decode(await read("text.txt")));
}

if (typeof document !== "undefined") Object.assign(globalThis, { sample });
else
  addEventListener("message", async () => {
    try {
      postMessage({ result: await sample() });
    } catch (error) {
      postMessage({ error: String(error) });
    }
  });
