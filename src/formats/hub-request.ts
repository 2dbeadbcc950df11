/** Requests to the Hub: with its token, tried again where that can help, with answers in words that say what to do. */
import { ConfigError } from "../errors.ts";
import type { HubSettings } from "./hub-settings.ts";

/** Nobody answers: there is no network, or no such machine. */
export class Unreachable extends ConfigError {}
/** What may work the next time: a connection that was cut, a server that is busy. */
export class Interrupted extends Error {
  /** Milliseconds that the server wants to be left alone. */
  readonly wait: number;

  constructor(message: string, wait = 0) {
    super(message);
    this.wait = wait;
  }
}

/** An answer and the end of its patience: `touch` begins the timeout anew. */
export interface Answer {
  readonly response: Response;
  readonly touch: () => void;
  readonly end: () => void;
}

/** Longest wait that a server may ask for. */
const longestWait = 60_000;

/**
 * One request, once. The token goes to the endpoint only, wherever a list or an answer may lead.
 *
 * @throws {Interrupted} when it is worth another attempt; @throws {Unreachable} when nobody answers
 */
export async function request(url: string, settings: HubSettings, init: RequestInit = {}): Promise<Answer> {
  const control = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const touch = () => {
    clearTimeout(timer);
    timer = setTimeout(() => control.abort(new Interrupted(`nothing came for ${settings.timeout / 1000} s`)), settings.timeout);
  };
  const end = () => clearTimeout(timer);
  touch();
  const headers = new Headers(init.headers);
  if (settings.token && new URL(url).origin === new URL(settings.endpoint).origin)
    headers.set("Authorization", `Bearer ${settings.token}`);
  let response: Response;
  try {
    response = await fetch(url, { ...init, headers, signal: control.signal });
  } catch (error) {
    end();
    throw wordFailure(error, url);
  }
  if (response.status === 429 || response.status >= 500) {
    end();
    await response.body?.cancel().catch(() => {});
    const after = Number(response.headers.get("retry-after") ?? 0) * 1000;
    throw new Interrupted(
      `the Hub answers ${response.status} (${response.status === 429 ? "too many requests" : "it is not well"})`,
      Math.min(longestWait, after > 0 ? after : 0),
    );
  }
  return { response, touch, end };
}

/** What fetch stumbled over. */
export function wordFailure(error: unknown, url: string): unknown {
  if (error instanceof Interrupted || error instanceof ConfigError) return error;
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const code = cause instanceof Error && "code" in cause ? String(cause.code) : "";
  const said = cause instanceof Error ? cause.message || code : String(cause);
  const { host } = new URL(url);
  if (/ENOTFOUND|EAI_AGAIN|ECONNREFUSED|ENETUNREACH|EHOSTUNREACH|CERT|ERR_TLS|SELF_SIGNED/.test(code))
    return new Unreachable(`${host} cannot be reached (${code}).`, { operation: "hub", got: url, hint: "Check the network." });
  return new Interrupted(`the connection to ${host} failed (${said})`);
}

/**
 * Tries again after {@link Interrupted}, waiting twice as long each time. `body` says by `progress` that an attempt has got on,
 * which begins the count anew.
 *
 * @throws {Unreachable} after the last attempt
 */
export async function attempted<T>(
  what: string,
  { attempts, retryDelay }: HubSettings,
  body: (progress: () => void) => Promise<T>,
): Promise<T> {
  let failures = 0;
  for (;;) {
    try {
      return await body(() => {
        failures = 0;
      });
    } catch (error) {
      if (!(error instanceof Interrupted)) throw error;
      if (++failures >= attempts)
        throw new Unreachable(`${what} failed ${attempts} times: ${error.message}.`, {
          operation: "hub",
          hint: "What has arrived is kept; run it again to go on.",
        });
      const delay = retryDelay * 2 ** (failures - 1) * (0.75 + Math.random() / 2);
      await new Promise((resume) => setTimeout(resume, Math.max(error.wait, Math.min(delay, longestWait))));
    }
  }
}

/** Why the Hub refuses, and the way out. */
export function refusal(response: Response, id: string, what: string, { token }: HubSettings): ConfigError {
  const { status } = response;
  const said = response.headers.get("x-error-message");
  const code = response.headers.get("x-error-code");
  const withToken = token ? "Check that the token may read it." : "If it is private, set HF_TOKEN to a token that may read it.";
  const fields = { operation: "hub", got: status };
  if (code === "GatedRepo" || (status === 403 && /gated|access/i.test(said ?? "")))
    return new ConfigError(`${id} is gated: its terms must be accepted on its page first.`, {
      ...fields,
      hint: token ? "Accept them with the account of the token." : "Accept them, and set HF_TOKEN.",
    });
  if (code === "RevisionNotFound") return new ConfigError(`${id} has no revision ${what}.`, fields);
  if (code === "EntryNotFound") return new ConfigError(`${id} has no file ${what}.`, fields);
  if (status === 401 || status === 403 || status === 404)
    return new ConfigError(
      `the Hub has no ${id} that can be read here (${status}${said ? `: ${said.replace(/\.$/, "")}` : ""}).`,
      {
        ...fields,
        hint: `Check the spelling. ${withToken}`,
      },
    );
  return new ConfigError(`the Hub answers ${status} to a request for ${what} of ${id}.`, fields);
}
