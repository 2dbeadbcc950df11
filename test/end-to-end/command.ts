/** The command line as a person runs it: a process of its own, what it prints, how it ends. */
import { spawn } from "node:child_process";
import { resolve } from "node:path";

export const root = resolve(import.meta.dirname, "../..");

export interface Outcome {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs `lorikeet ...args`.
 *
 * @param interruptAt sends Ctrl-C when standard error first matches
 */
export function lorikeet(args: readonly string[], { interruptAt }: { readonly interruptAt?: RegExp } = {}): Promise<Outcome> {
  return run(process.execPath, ["dist/src/cli/main.js", ...args], interruptAt);
}

export function run(program: string, args: readonly string[], interruptAt?: RegExp): Promise<Outcome> {
  return new Promise((done, failed) => {
    const child = spawn(program, args, { cwd: root, env: { ...process.env, NO_COLOR: "1" }, stdio: ["ignore", "pipe", "pipe"] });
    let [stdout, stderr, interrupted] = ["", "", false];
    child.stdout.on("data", (chunk) => {
      stdout += chunk;
    });
    child.stderr.on("data", (chunk) => {
      stderr += chunk;
      if (interrupted || !interruptAt?.test(stderr)) return;
      interrupted = true;
      child.kill("SIGINT");
    });
    child.on("error", failed);
    child.on("close", (code) => done({ code, stdout, stderr }));
  });
}

/** The last line of standard output as JSON. */
export const lastLine = (stdout: string): Record<string, unknown> => JSON.parse(stdout.trim().split("\n").at(-1) ?? "");
