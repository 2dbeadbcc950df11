/**
 * Chat templates: Jinja programs in a tokenizer's files that write messages as the model was trained to read them.
 *
 * @see https://huggingface.co/docs/transformers/chat_templating
 */
import { Template } from "@huggingface/jinja";
import { ConfigError, checkOptions, FormatError, nearestName } from "../errors.ts";

/** One turn. Templates may read further keys, such as `tool_calls`. */
export interface ChatMessage {
  readonly role: string;
  readonly content?: unknown;
  readonly [key: string]: unknown;
}

/** How messages are written. */
export interface ChatOptions {
  /** Ends with what comes before the model's answer. */
  readonly addGenerationPrompt?: boolean;
  /** What the model may call: JSON schemas, `{ type: "function", function: { name, description, parameters } }`. */
  readonly tools?: readonly object[];
  /** What the model may read, for templates of search and answer. */
  readonly documents?: readonly object[];
  /** The name of one of several templates, or a template itself. */
  readonly template?: string;
  /** What templates take for the present; now, when absent. */
  readonly now?: Date;
  /** What else the template reads, such as `enable_thinking`. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** Messages as tokens. */
export interface EncodedChat {
  readonly ids: Int32Array;
  /** 1 where the assistant speaks, which a model is trained to say. */
  readonly assistantMask: Uint8Array;
}

/** A text, and where in it the assistant speaks: from and to in UTF-16 units. */
export interface RenderedChat {
  readonly text: string;
  readonly answers: readonly (readonly [from: number, to: number])[];
}

/** Named templates of a tokenizer_config.json: one text, or a list of names with texts. */
export function chatTemplates(config: Readonly<Record<string, unknown>>): ReadonlyMap<string, string> {
  const given = config["chat_template"];
  if (typeof given === "string") return new Map([["default", given]]);
  const entries: unknown[] = Array.isArray(given) ? given : [];
  return new Map(
    entries.flatMap((entry) => {
      const { name, template } = (entry ?? {}) as { readonly name?: unknown; readonly template?: unknown };
      return typeof name === "string" && typeof template === "string" ? [[name, template] as const] : [];
    }),
  );
}

/** Characters for private use that stand where `{% generation %}` begins and ends. */
const [opens, closes] = ["\uE0A0\uE0A1", "\uE0A1\uE0A0"];
const clock = "time_of_lorikeet";
const compiled = new Map<string, Template>();

/**
 * Messages as one text.
 *
 * @param special `bos_token` and the like by name
 * @throws {ConfigError} when there is no such template, or the template refuses these messages, in its own words
 * @throws {FormatError} when the template itself is broken
 */
export function renderChat(
  templates: ReadonlyMap<string, string>,
  special: Readonly<Record<string, string>>,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): RenderedChat {
  const operation = "applyChatTemplate";
  if (!Array.isArray(messages) || messages.some((message) => typeof message?.role !== "string"))
    throw new ConfigError("messages are a list of { role, content }.", { operation, got: messages });
  checkOptions(operation, options, {
    addGenerationPrompt: "true or false",
    tools: "a list",
    documents: "a list",
    template: "a string",
    now: Date,
    variables: "an object",
  });
  const source = pickTemplate(templates, options);
  let template = compiled.get(source);
  try {
    template ??= new Template(withMarks(source));
  } catch (cause) {
    throw new FormatError(`the chat template is not one that can be read: ${(cause as Error).message}.`, {
      operation,
      got: source,
    });
  }
  compiled.set(source, template);
  const { addGenerationPrompt = false, tools, documents, now, variables } = options;
  const context = {
    messages: messages.map(asRead),
    tools: tools ?? null,
    documents: documents ?? null,
    add_generation_prompt: addGenerationPrompt,
    [clock]: (format: string) => strftime(now ?? new Date(), format),
    ...special,
    ...variables,
  };
  let text: string;
  try {
    text = template.render(context);
  } catch (cause) {
    throw new ConfigError(`the chat template refuses these messages: ${(cause as Error).message.replace(/\.$/, "")}.`, {
      operation,
      got: messages,
    });
  }
  return withoutMarks(text);
}

function pickTemplate(templates: ReadonlyMap<string, string>, { template, tools }: ChatOptions): string {
  const operation = "applyChatTemplate";
  if (template !== undefined) {
    const named = templates.get(template);
    if (named !== undefined) return named;
    if (/[{\n]/.test(template)) return template;
    const near = nearestName(template, templates.keys());
    throw new ConfigError(`there is no chat template "${template}".`, {
      operation,
      expected: [...templates.keys()],
      got: template,
      hint: near ? `Did you mean "${near}"?` : `There are: ${[...templates.keys()].join(", ") || "none"}.`,
    });
  }
  const found = (tools && templates.get("tool_use")) ?? templates.get("default");
  if (found !== undefined) return found;
  throw new ConfigError(
    templates.size ? "none of the tokenizer's chat templates is the default." : "the tokenizer has no chat template.",
    {
      operation,
      expected: [...templates.keys()],
      hint: templates.size ? `Say which: { template: "${[...templates.keys()][0]}" }.` : 'Give one: { template: "{% for …" }.',
    },
  );
}

/**
 * A message as templates read it, which is what transformers gives them: without keys that are null, as services write them, and with
 * what the model thought under both names that templates ask for.
 */
function asRead(message: ChatMessage): ChatMessage {
  const given = Object.fromEntries(Object.entries(message).filter(([, value]) => value !== null)) as unknown as ChatMessage;
  const thought = given["reasoning_content"] ?? given["thinking"] ?? given["reasoning"];
  return thought === undefined ? given : { thinking: thought, ...given, reasoning_content: thought };
}

/**
 * The library has no `generation`: a condition that holds writes a mark, and treats the lines around it as the tag would.
 * Its own clock cannot be set, so that it is asked for by another name.
 */
const withMarks = (template: string): string =>
  template
    .replace(/\bstrftime_now\b/g, clock)
    .replace(
      /\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}/g,
      (_, before: string, end: string | undefined, after: string) =>
        `{%${before} if true %}{{ "${end ? closes : opens}" }}{% endif ${after}%}`,
    );

function withoutMarks(marked: string): RenderedChat {
  const answers: [number, number][] = [];
  let text = "";
  for (const part of marked.split(/(\uE0A0\uE0A1|\uE0A1\uE0A0)/)) {
    if (part === opens) answers.push([text.length, Number.POSITIVE_INFINITY]);
    else if (part === closes) {
      const last = answers.at(-1);
      if (last) last[1] = text.length;
    } else text += part;
  }
  return { text, answers };
}

/**
 * A chat and where the assistant speaks in it: what the template marks with `{% generation %}`; else, for each of its messages,
 * what follows the text of those before with the prompt for an answer.
 *
 * @throws {ConfigError} when the template writes earlier messages otherwise once later ones are there
 */
export function renderAnswers(
  render: (messages: readonly ChatMessage[], addGenerationPrompt: boolean) => RenderedChat,
  messages: readonly ChatMessage[],
  addGenerationPrompt: boolean,
): RenderedChat {
  const whole = render(messages, addGenerationPrompt);
  if (whole.answers.length) return whole;
  const answers = messages.flatMap((message, i): [number, number][] => {
    if (message.role !== "assistant") return [];
    const before = textBefore(render, messages.slice(0, i));
    const after = i + 1 === messages.length && !addGenerationPrompt ? whole.text : render(messages.slice(0, i + 1), false).text;
    if (!after.startsWith(before) || !whole.text.startsWith(after))
      throw new ConfigError(
        "the chat template writes messages differently once later ones follow, so answers cannot be located.",
        {
          operation: "encodeChat",
          hint: "Put {% generation %} and {% endgeneration %} around the answer in the template.",
        },
      );
    return [[before.length, after.length]];
  });
  return { text: whole.text, answers };
}

/** What is written before an answer; nothing where the answer is the first message and the template needs one before it. */
function textBefore(
  render: (messages: readonly ChatMessage[], addGenerationPrompt: boolean) => RenderedChat,
  messages: readonly ChatMessage[],
): string {
  try {
    return render(messages, true).text;
  } catch (cause) {
    if (messages.length > 0) throw cause;
    return "";
  }
}

/** Python's strftime, as far as templates use it, in English and in the time of this place. */
function strftime(date: Date, format: string): string {
  const pad = (value: number, digits = 2) => String(value).padStart(digits, "0");
  const name = (options: Intl.DateTimeFormatOptions) => new Intl.DateTimeFormat("en-US", options).format(date);
  const hour = date.getHours();
  const day = Math.round(
    (Date.UTC(date.getFullYear(), date.getMonth(), date.getDate()) - Date.UTC(date.getFullYear(), 0, 0)) / 864e5,
  );
  const fields: Readonly<Record<string, () => string>> = {
    Y: () => String(date.getFullYear()),
    y: () => pad(date.getFullYear() % 100),
    m: () => pad(date.getMonth() + 1),
    B: () => name({ month: "long" }),
    b: () => name({ month: "short" }),
    d: () => pad(date.getDate()),
    e: () => String(date.getDate()).padStart(2),
    j: () => pad(day, 3),
    A: () => name({ weekday: "long" }),
    a: () => name({ weekday: "short" }),
    w: () => String(date.getDay()),
    H: () => pad(hour),
    I: () => pad(hour % 12 || 12),
    M: () => pad(date.getMinutes()),
    S: () => pad(date.getSeconds()),
    f: () => pad(date.getMilliseconds() * 1000, 6),
    p: () => (hour < 12 ? "AM" : "PM"),
    F: () => `${fields["Y"]?.()}-${fields["m"]?.()}-${fields["d"]?.()}`,
    T: () => `${fields["H"]?.()}:${fields["M"]?.()}:${fields["S"]?.()}`,
    "%": () => "%",
  };
  // "-" leaves out leading zeros
  return format.replace(/%(-?)([a-zA-Z%])/g, (whole, bare: string, key: string) => {
    const value = fields[key]?.();
    return value === undefined ? whole : bare ? value.replace(/^0+(?=\d)/, "") : value;
  });
}
