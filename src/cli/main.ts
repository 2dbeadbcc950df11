#!/usr/bin/env node
/** The command line: `lorikeet`. Errors that are the caller's to mend are one line on standard error. */
import process from "node:process";
import { Command } from "commander";
import "../devices/choose.ts";
import { LorikeetError } from "../errors.ts";
import { addBench } from "./bench.ts";
import { addDoctor } from "./doctor.ts";
import { addFinetune } from "./finetune.ts";
import { addPretrain } from "./pretrain.ts";

const program = new Command("lorikeet").description("Fine-tunes language models with adapters, on this machine.");
// commander puts what it guesses on a second line
program.configureOutput({ outputError: (text, write) => write(`${text.trim().replace(/\n+/g, " ")}\n`) });
addFinetune(program);
addPretrain(program);
addDoctor(program);
addBench(program);

try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof LorikeetError)) throw error;
  process.stderr.write(`${error.message}\n`);
  process.exitCode = 1;
}
