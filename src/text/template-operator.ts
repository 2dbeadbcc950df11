/** Operators of chat templates, as Python has them. */
import { percent } from "./template-method.ts";
import { compare, contains, equal, Float, integerOf, isTrue, numberOf, str, Tuple, typeName } from "./template-value.ts";

/** `-value`, `+value` or `not value` @throws {Error} where Python raises */
export function unary(operator: string, value: unknown): unknown {
  if (operator === "not") return !isTrue(value);
  const number = numberOf(value);
  if (number === undefined) throw new Error(`bad operand type for unary ${operator}: '${typeName(value)}'`);
  const signed = operator === "-" ? -number : number;
  return value instanceof Float ? new Float(signed) : signed + 0;
}

/** `left operator right`, but for `and` and `or`, which need not look at the right @throws {Error} where Python raises */
export function binary(operator: string, left: unknown, right: unknown): unknown {
  switch (operator) {
    case "==":
      return equal(left, right);
    case "!=":
      return !equal(left, right);
    case "<":
      return compare(left, right, operator) < 0;
    case ">":
      return compare(left, right, operator) > 0;
    case "<=":
      return compare(left, right, operator) <= 0;
    case ">=":
      return compare(left, right, operator) >= 0;
    case "in":
      return contains(right, left);
    case "not in":
      return !contains(right, left);
    case "~":
      return str(left) + str(right);
  }
  const [x, y] = [numberOf(left), numberOf(right)];
  if (x !== undefined && y !== undefined) return arithmetic(operator, x, y, left instanceof Float || right instanceof Float);
  if (operator === "+") {
    if (typeof left === "string" && typeof right === "string") return left + right;
    if (Array.isArray(left) && Array.isArray(right) && typeName(left) === typeName(right)) return left.concat(right);
    if (typeof left === "string") throw new Error(`can only concatenate str (not "${typeName(right)}") to str`);
  }
  if (operator === "%" && typeof left === "string")
    return right instanceof Map ? percent(left, [], right) : percent(left, right instanceof Tuple ? right : [right]);
  if (operator === "*") {
    const [many, times] = x === undefined ? [left, right] : [right, left];
    const count = typeof many === "string" || Array.isArray(many) ? Math.max(0, integerOf(times, "a factor")) : 0;
    if (typeof many === "string") return many.repeat(count);
    if (Array.isArray(many)) return Array.from({ length: count }, () => many as unknown[]).flat();
  }
  throw new Error(`unsupported operand type(s) for ${operator}: '${typeName(left)}' and '${typeName(right)}'`);
}

function arithmetic(operator: string, x: number, y: number, isFloat: boolean): unknown {
  const made = (value: number): unknown => (isFloat ? new Float(value) : value + 0);
  if (y === 0 && (operator === "/" || operator === "//" || operator === "%")) throw new Error("division by zero");
  switch (operator) {
    case "+":
      return made(x + y);
    case "-":
      return made(x - y);
    case "*":
      return made(x * y);
    case "/":
      return new Float(x / y);
    case "//":
      return made(Math.floor(x / y));
    case "%":
      return made(x - y * Math.floor(x / y));
    case "**":
      return isFloat || y < 0 ? new Float(x ** y) : x ** y;
  }
  throw new Error(`unsupported operator ${operator}`);
}
