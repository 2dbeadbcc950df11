/** Objects inside a config, such as `kasaConfig`: PEFT's classes with keys of their own, which keep PEFT's spelling. */
import { ConfigError, nearestName } from "../errors.ts";
import { type ConfigKeys, type ConfigOf, problemWith } from "../formats/peft-config.ts";

/**
 * The object with its defaults filled in.
 *
 * @param option the key that holds it
 * @throws {ConfigError} for a key that it does not have, or a wrong value
 */
export function subConfig<Keys extends ConfigKeys>(option: string, given: unknown, keys: Keys): ConfigOf<Keys> {
  const operation = "lora";
  const found: Record<string, unknown> = Object.fromEntries(
    Object.entries(keys).map(([name, { default: value }]) => [name, value]),
  );
  for (const [name, value] of Object.entries((given ?? {}) as object)) {
    const known = Object.hasOwn(keys, name) ? keys[name] : undefined;
    const near = nearestName(name, Object.keys(keys));
    const problem = known ? problemWith(`${option}.${name}`, value, known) : `\`${option}\` has no key \`${name}\`.`;
    if (problem !== undefined)
      throw new ConfigError(problem, {
        operation,
        got: value,
        ...(known ? {} : { hint: near === undefined ? `Keys: ${Object.keys(keys).join(", ")}.` : `Did you mean \`${near}\`?` }),
      });
    found[name] = value;
  }
  return found as ConfigOf<Keys>;
}
