/** The Python of Hugging Face's side: one for all files of this folder, since its packages take longer to import than most of what is asked. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";

const python = process.env["LORIKEET_PYTHON"] ?? "python3";
// it ends when nobody can ask any more
const side = spawn(python, [join(import.meta.dirname, "sides.py")], { stdio: "pipe" });
let said = "";
side.stderr.on("data", (piece) => {
  said += piece;
});
const ended = new Promise<never>((_, failed) => {
  side.on("error", failed).on("exit", (code) => failed(new Error(`${python} ended with ${code}:\n${said}`)));
});
ended.catch(() => {}); // whoever asks is told
const answers = createInterface({ input: side.stdout })[Symbol.asyncIterator]();

/** Has `<name>_side.py` do its part in `folder`; throws what went wrong there. */
export async function pythonSide(name: "mixture" | "peft" | "tokenizer", folder: string): Promise<void> {
  side.stdin.write(`${JSON.stringify([name, folder])}\n`);
  const { value } = await Promise.race([answers.next(), ended]);
  const error = JSON.parse(value);
  if (error) throw new Error(`${name}_side.py failed:\n${error}`);
}
