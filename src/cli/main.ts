#!/usr/bin/env node
/** The command line: `lorikeet`. Errors that are the caller's to mend are one line on standard error. */
import { readFileSync } from "node:fs";
import process from "node:process";
import { Command } from "commander";
import "../devices/choose.ts";
import { LorikeetError, nearestName } from "../errors.ts";
import { addBench } from "./bench.ts";
import { addCompare } from "./compare.ts";
import { addDoctor } from "./doctor.ts";
import { addEmbed } from "./embed.ts";
import { addEvaluate } from "./evaluate.ts";
import { addFinetune } from "./finetune.ts";
import { addGenerate } from "./generate.ts";
import { addGguf } from "./gguf.ts";
import { addInspect } from "./inspect.ts";
import { addMerge } from "./merge.ts";
import { addPretrain } from "./pretrain.ts";

// whoever was reading has gone (`| head`): what is written goes nowhere, and the work, which is in files, goes on
process.stderr.on("error", () => {});
process.stdout.on("error", ({ code, message }: NodeJS.ErrnoException) => {
  if (code === "EPIPE") return;
  process.stderr.write(`lorikeet: standard output cannot be written: ${message}.\n`);
  process.exitCode = 1;
});

const { version } = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")) as {
  readonly version: string;
};
const program = new Command("lorikeet")
  .description("Fine-tunes language models with adapters, on this machine.")
  .version(version, "--version", "display the version");
// commander puts what it guesses on a second line
program.configureOutput({ outputError: (text, write) => write(`${text.trim().replace(/\n+/g, " ")}\n`) });
addFinetune(program);
addCompare(program);
addPretrain(program);
addGenerate(program);
addEvaluate(program);
addMerge(program);
addEmbed(program);
addGguf(program);
addInspect(program);
addDoctor(program);
addBench(program);

const [first = "-"] = process.argv.slice(2);
const commands = [...program.commands.map((command) => command.name()), "help"];
if (!first.startsWith("-") && !commands.includes(first)) {
  const near = nearestName(first, commands);
  program.error(`error: unknown command '${first}' ${near ? `(Did you mean ${near}?)` : `(There are ${commands.join(", ")}.)`}`);
}

try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof LorikeetError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
