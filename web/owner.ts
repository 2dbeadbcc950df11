/** Which of several tabs keeps the run: two must not write to one, so the first does and the others keep nothing. */

const channel = "BroadcastChannel" in globalThis ? new BroadcastChannel("lorikeet") : undefined;

/** Milliseconds for which the engine of a page that is gone may still be at its last step: Chromium ends it after 2 s, when it has the time. */
const lastStep = 10_000;

/**
 * In the engine: whether this tab may keep its run. A tab that has one says so at once; one that was closed or reloaded says nothing, and
 * its engine is waited for.
 */
export async function claimRun(): Promise<boolean> {
  // pages that came without encryption have no locks, and nowhere to keep a run either
  if (!navigator.locks) return false;
  const waiting = new AbortController();
  channel?.addEventListener("message", ({ data }) => void (data === "mine" && waiting.abort()), { signal: waiting.signal });
  channel?.postMessage("whose?");
  const timer = setTimeout(() => waiting.abort(), lastStep);
  const mine = await new Promise<boolean>((answer) => {
    const hold = (): Promise<never> => {
      answer(true);
      return new Promise(() => {});
    };
    navigator.locks.request("lorikeet", { signal: waiting.signal }, hold).catch(() => answer(false));
  });
  clearTimeout(timer);
  return mine;
}

/** In the page, which answers while the engine computes: other tabs hear that the run is kept here. */
export function defendRun(): void {
  channel?.addEventListener("message", ({ data }) => void (data === "whose?" && channel.postMessage("mine")));
  channel?.postMessage("mine"); // to those who asked before
}
