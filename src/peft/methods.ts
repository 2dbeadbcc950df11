/** The adapter methods: one line each. Being listed here is being tested, saved, loaded, merged and documented. */
import type { AnyMethod } from "./method.ts";
import { dora } from "./methods/dora.ts";
import { lora } from "./methods/lora.ts";

/** By the name that people call a method. */
export const methods = { lora, dora } as const satisfies Record<string, AnyMethod>;

/** A name in that list. */
export type MethodName = keyof typeof methods;
