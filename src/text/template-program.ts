/**
 * Runs chat templates: the tree that `@huggingface/jinja` parses, with the values and the scopes of Python's Jinja. That library's own
 * way of running one writes true for True and nothing for None, forgets what a loop wrote before `{% break %}`, keeps what
 * `{% set %}` says in a loop beyond it, and takes no letters in `strip("\n")`, which published templates use.
 *
 * @see https://jinja.palletsprojects.com/en/stable/templates/ and transformers' `chat_template_utils`
 */
import { applyFilter, applyTest, dict, range } from "./template-filter.ts";
import { attribute, item } from "./template-method.ts";
import { binary, unary } from "./template-operator.ts";
import { parseTemplate } from "./template-syntax.ts";
import {
  type Callable,
  equal,
  Float,
  isTrue,
  iterate,
  type Named,
  Namespace,
  sliceOf,
  str,
  Tuple,
  toValue,
  typeName,
} from "./template-value.ts";

/** A node of the tree: what each type has beside `type` is known where it is run. */
interface Node {
  readonly type: string;
  readonly [key: string]: unknown;
}
type Body = readonly Node[];
type Operator = { readonly value: string };

/** Names that are known; each body of a loop or macro has a scope of its own within the one around it. */
class Scope {
  readonly names = new Map<string, unknown>();
  readonly #outer: Scope | null;
  constructor(outer: Scope | null) {
    this.#outer = outer;
  }
  get(name: string): unknown {
    return this.names.has(name) ? this.names.get(name) : this.#outer?.get(name);
  }
}

/** How a body ended. */
type Ending = "break" | "continue" | undefined;

/** Deeper than this, calls within calls are refused before the stack is full. */
const maximumDepth = 200;

const constants: ReadonlyMap<string, unknown> = new Map<string, unknown>([
  ...[true, false].flatMap((value) => [[String(value), value] as const, [value ? "True" : "False", value] as const]),
  ...["none", "None"].map((name) => [name, null] as const),
]);

const globals: Readonly<Record<string, Callable>> = {
  range,
  dict,
  namespace(args, named) {
    const made = new Namespace();
    for (const [key, value] of dict(args, named) as Map<string, unknown>) made.names.set(key, value);
    return made;
  },
  raise_exception([message]) {
    throw new Error(str(message));
  },
};

/** A template that has been read. */
export class TemplateProgram {
  readonly #body: Body;

  /** @throws {Error} saying what is wrong with the template */
  constructor(source: string) {
    this.#body = parseTemplate(source).body as unknown as Body;
  }

  /**
   * What the template writes.
   *
   * @param context  variables, as JSON has them
   * @param functions what it may call beside Jinja's own
   * @throws {Error} what the template raises, or cannot be computed, in Python's words
   */
  render(context: Readonly<Record<string, unknown>>, functions: Readonly<Record<string, Callable>> = {}): string {
    const scope = new Scope(null);
    for (const [name, call] of Object.entries({ ...globals, ...functions })) scope.names.set(name, call);
    const inner = new Scope(scope);
    for (const [name, value] of Object.entries(context)) inner.names.set(name, toValue(value));
    return new Run().write(this.#body, inner);
  }
}

class Run {
  #depth = 0;

  /** What a body writes. */
  write(body: Body, scope: Scope): string {
    const out: string[] = [];
    this.#run(body, scope, out);
    return out.join("");
  }

  #run(body: Body, scope: Scope, out: string[]): Ending {
    for (const node of body) {
      const ending = this.#statement(node, scope, out);
      if (ending) return ending;
    }
    return undefined;
  }

  #statement(node: Node, scope: Scope, out: string[]): Ending {
    switch (node.type) {
      case "Comment":
        return undefined;
      case "Break":
        return "break";
      case "Continue":
        return "continue";
      case "If":
        return this.#run((isTrue(this.#value(node["test"], scope)) ? node["body"] : node["alternate"]) as Body, scope, out);
      case "For":
        return this.#loop(node, scope, out);
      case "Set":
        this.#set(node, scope);
        return undefined;
      case "Macro":
        scope.names.set((node["name"] as Operator).value, this.#macro(node["args"] as Body, node["body"] as Body, scope));
        return undefined;
      case "CallStatement": {
        const call = node["call"] as Node;
        const caller = this.#macro((node["callerArgs"] ?? []) as Body, node["body"] as Body, scope);
        out.push(str(this.#call(call, scope, caller)));
        return undefined;
      }
      case "FilterStatement":
        out.push(str(this.#filter(this.write(node["body"] as Body, new Scope(scope)), node["filter"] as Node, scope)));
        return undefined;
      default:
        out.push(str(this.#value(node, scope)));
        return undefined;
    }
  }

  #loop(node: Node, outer: Scope, out: string[]): Ending {
    const source = node["iterable"] as Node;
    const isChosen = source.type === "SelectExpression";
    const variable = node["loopvar"] as Node;
    const all = iterate(this.#value(isChosen ? source["lhs"] : source, outer));
    const items = all.filter((each) => {
      if (!isChosen) return true;
      const scope = new Scope(outer);
      assign(variable, each, scope);
      return isTrue(this.#value(source["test"], scope));
    });
    let last: readonly unknown[] | undefined;
    const depth = (outer.get("loop") instanceof Map ? Number((outer.get("loop") as Map<string, unknown>).get("depth0")) : -1) + 1;
    for (const [i, each] of items.entries()) {
      const scope = new Scope(outer);
      const { length } = items;
      const about: Readonly<Record<string, unknown>> = {
        ...{ index: i + 1, index0: i, revindex: length - i, revindex0: length - i - 1 },
        ...{ first: i === 0, last: i === length - 1, length, depth: depth + 1, depth0: depth },
        ...{ previtem: items[i - 1], nextitem: items[i + 1] },
        cycle: ((args) => args[i % args.length]) satisfies Callable,
        changed: ((args) => {
          const same = last !== undefined && equal(args, last);
          last = args;
          return !same;
        }) satisfies Callable,
      };
      scope.names.set("loop", new Map(Object.entries(about)));
      assign(variable, each, scope);
      if (this.#run(node["body"] as Body, scope, out) === "break") break;
    }
    return items.length === 0 ? this.#run(node["defaultBlock"] as Body, new Scope(outer), out) : undefined;
  }

  #set(node: Node, scope: Scope): void {
    const target = node["assignee"] as Node;
    const value = node["value"] ? this.#value(node["value"], scope) : this.write(node["body"] as Body, new Scope(scope));
    if (target.type !== "MemberExpression") {
      assign(target, value, scope);
      return;
    }
    const object = this.#value(target["object"], scope);
    if (!(object instanceof Namespace)) throw new Error("cannot assign attribute on non-namespace object");
    object.names.set((target["property"] as Operator).value, value);
  }

  #macro(parameters: Body, body: Body, outer: Scope): Callable {
    return (args, named) => {
      const scope = new Scope(outer);
      const rest = new Map(named);
      parameters.forEach((parameter, i) => {
        const hasDefault = parameter.type === "KeywordArgumentExpression";
        const name = ((hasDefault ? parameter["key"] : parameter) as Operator).value;
        const isGiven = i < args.length || rest.has(name);
        const value = i < args.length ? args[i] : rest.get(name);
        rest.delete(name);
        scope.names.set(name, isGiven || !hasDefault ? value : this.#value(parameter["value"], scope));
      });
      scope.names.set("caller", rest.get("caller"));
      rest.delete("caller");
      scope.names.set("varargs", Tuple.from(args.slice(parameters.length)));
      scope.names.set("kwargs", rest);
      if (++this.#depth > maximumDepth) throw new Error("maximum recursion depth exceeded");
      const text = this.write(body, scope);
      this.#depth--;
      return text;
    };
  }

  #value(expression: unknown, scope: Scope): unknown {
    const node = expression as Node;
    switch (node.type) {
      case "StringLiteral":
      case "IntegerLiteral":
        return node["value"];
      case "FloatLiteral":
        return new Float(node["value"] as number);
      case "ArrayLiteral":
        return (node["value"] as Body).map((each) => this.#value(each, scope));
      case "TupleLiteral":
        return Tuple.from((node["value"] as Body).map((each) => this.#value(each, scope)));
      case "ObjectLiteral":
        return new Map(
          Array.from(node["value"] as Map<Node, Node>, ([key, value]) => [this.#value(key, scope), this.#value(value, scope)]),
        );
      case "Identifier": {
        const name = node["value"] as string;
        return constants.has(name) ? constants.get(name) : scope.get(name);
      }
      case "MemberExpression":
        return this.#member(node, scope);
      case "CallExpression":
        return this.#call(node, scope);
      case "FilterExpression":
        return this.#filter(this.#value(node["operand"], scope), node["filter"] as Node, scope);
      case "TestExpression":
        return applyTest((node["test"] as Operator).value, this.#value(node["operand"], scope), []) !== node["negate"];
      case "SelectExpression":
        return isTrue(this.#value(node["test"], scope)) ? this.#value(node["lhs"], scope) : undefined;
      case "Ternary":
        return this.#value(isTrue(this.#value(node["condition"], scope)) ? node["trueExpr"] : node["falseExpr"], scope);
      case "UnaryExpression":
        return unary((node["operator"] as Operator).value, this.#value(node["argument"], scope));
      case "BinaryExpression":
        return this.#binary(node, scope);
      default:
        throw new Error(`${node.type} cannot stand here`);
    }
  }

  #binary(node: Node, scope: Scope): unknown {
    const operator = (node["operator"] as Operator).value;
    const left = this.#value(node["left"], scope);
    if (operator === "and") return isTrue(left) ? this.#value(node["right"], scope) : left;
    if (operator === "or") return isTrue(left) ? left : this.#value(node["right"], scope);
    const right = this.#value(node["right"], scope);
    const arithmetic = !["==", "!=", "in", "not in", "~"].includes(operator);
    if (left === undefined && (arithmetic || operator === "<")) throw missing(node["left"] as Node);
    if (right === undefined && arithmetic) throw missing(node["right"] as Node);
    return binary(operator, left, right);
  }

  #member(node: Node, scope: Scope): unknown {
    const object = this.#value(node["object"], scope);
    const property = node["property"] as Node;
    if (object === undefined) throw missing(node["object"] as Node);
    if (property.type === "SliceExpression")
      return sliceOf(
        object,
        ["start", "stop", "step"].map((bound) =>
          property[bound] === undefined ? undefined : this.#value(property[bound], scope),
        ),
      );
    if (node["computed"]) return item(object, this.#value(property, scope));
    return property.type === "Identifier" ? attribute(object, property["value"] as string) : item(object, property["value"]);
  }

  #arguments(args: Body, scope: Scope): [args: unknown[], named: Map<string, unknown>] {
    const [places, named] = [[] as unknown[], new Map<string, unknown>()];
    for (const arg of args)
      if (arg.type === "KeywordArgumentExpression") named.set((arg["key"] as Operator).value, this.#value(arg["value"], scope));
      else if (arg.type === "SpreadExpression") places.push(...iterate(this.#value(arg["argument"], scope)));
      else if (arg.type === "KeywordSpreadExpression")
        for (const [key, value] of this.#value(arg["argument"], scope) as Map<string, unknown>) named.set(key, value);
      else places.push(this.#value(arg, scope));
    return [places, named];
  }

  #call(node: Node, scope: Scope, caller?: Callable): unknown {
    const callee = this.#value(node["callee"], scope);
    if (callee === undefined) throw missing(node["callee"] as Node);
    if (typeof callee !== "function") throw new Error(`'${typeName(callee)}' object is not callable`);
    const [args, named] = this.#arguments(node["args"] as Body, scope);
    if (caller) named.set("caller", caller);
    return (callee as Callable)(args, named as Named);
  }

  #filter(value: unknown, filter: Node, scope: Scope): unknown {
    if (filter.type === "Identifier") return applyFilter(filter["value"] as string, value, [], new Map());
    const [args, named] = this.#arguments(filter["args"] as Body, scope);
    return applyFilter((filter["callee"] as Operator).value, value, args, named);
  }
}

/** One name, or several for the parts of a value. */
function assign(target: Node, value: unknown, scope: Scope): void {
  if (target.type === "Identifier") {
    scope.names.set(target["value"] as string, value);
    return;
  }
  if (target.type !== "TupleLiteral") throw new Error(`cannot assign to ${target.type}`);
  const targets = target["value"] as Body;
  const parts = iterate(value);
  if (parts.length !== targets.length)
    throw new Error(
      parts.length < targets.length
        ? `not enough values to unpack (expected ${targets.length}, got ${parts.length})`
        : `too many values to unpack (expected ${targets.length})`,
    );
  targets.forEach((each, i) => {
    assign(each, parts[i], scope);
  });
}

/** What is asked of a value that is not there. */
function missing(node: Node): Error {
  const property = node["property"] as Node | undefined;
  if (node.type !== "MemberExpression") return new Error(`'${node["value"] ?? "the value"}' is undefined`);
  return new Error(`there is no '${property?.["value"] ?? "such item"}'`);
}
