/** Ctrl-C, or a terminal that is closed, after which what is running is finished first. */
import process from "node:process";

/** What a shell shows for a program that was ended by Ctrl-C. */
export const interruptedExitCode = 130;

/** A watch for signals that end a program; ends with `dispose`. */
export interface Interrupt extends Disposable {
  readonly signal: AbortSignal;
}

/**
 * The first Ctrl-C (or SIGTERM, or the SIGHUP of a terminal that is closed or a connection that is lost) aborts the signal; the second ends the process at once.
 *
 * @param onFirst told after the first
 */
export function listenForInterrupt(onFirst: () => void): Interrupt {
  const controller = new AbortController();
  const handle = () => {
    if (controller.signal.aborted) process.exit(interruptedExitCode);
    controller.abort();
    onFirst();
  };
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const name of signals) process.on(name, handle);
  return {
    signal: controller.signal,
    [Symbol.dispose]() {
      for (const name of signals) process.off(name, handle);
    },
  };
}
