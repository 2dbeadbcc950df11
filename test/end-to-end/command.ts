/** The command line as a person runs it: a process of its own, what it prints, how it ends. */
import { spawn } from "node:child_process";
import { resolve } from "node:path";
import { expect } from "vitest";

export const root = resolve(import.meta.dirname, "../..");

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * A module that sends its program a signal once what the program has written to standard error matches. From outside it might come
 * too late: what runs goes on while a busy machine lets the sender wait.
 */
const interrupting = (at: RegExp, signal: NodeJS.Signals): string => {
  const code = `const { write } = process.stderr;
    let written = "";
    process.stderr.write = function (text, ...more) {
      written += text;
      if (${at}.test(written)) {
        process.stderr.write = write;
        process.kill(process.pid, "${signal}");
      }
      return write.call(this, text, ...more);
    };`;
  return `data:text/javascript,${encodeURIComponent(code)}`;
};

/**
 * Runs `lorikeet ...args`.
 *
 * @param interruptAt sends the signal, Ctrl-C when absent, when standard error first matches
 * @param input what it finds on standard input
 */
export function lorikeet(
  args: readonly string[],
  {
    interruptAt,
    signal = "SIGINT",
    input = "",
  }: { readonly interruptAt?: RegExp; readonly signal?: NodeJS.Signals; readonly input?: string } = {},
): Promise<Outcome> {
  const before = interruptAt ? ["--import", interrupting(interruptAt, signal)] : [];
  return run(process.execPath, [...before, "dist/src/cli/main.js", ...args], input);
}

export function run(program: string, args: readonly string[], input = ""): Promise<Outcome> {
  return new Promise((done, failed) => {
    const child = spawn(program, args, { cwd: root, env: { ...process.env, NO_COLOR: "1" }, stdio: "pipe" });
    child.stdin.on("error", () => {}).end(input); // it may end without having read
    let [stdout, stderr] = ["", ""];
    child.stdout.on("data", (chunk) => {
      stdout += chunk;
    });
    child.stderr.on("data", (chunk) => {
      stderr += chunk;
    });
    child.on("error", failed);
    child.on("close", (code) => done({ code, stdout, stderr }));
  });
}

/** Runs `lorikeet ...args`, which says in one line what is wrong, with these words in it, and prints nothing else. */
export async function expectRefusal(args: readonly string[], words: string): Promise<void> {
  const { code, stdout, stderr } = await lorikeet(args);
  const lines = stderr
    .trim()
    .split("\n")
    .filter((line) => !line.startsWith("Reading "));
  expect([code, stdout, lines.length], stderr).toEqual([1, "", 1]);
  expect(lines[0]).toContain(words);
}

/** The last line of standard output as JSON. */
export const lastLine = (stdout: string): Record<string, unknown> => JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
