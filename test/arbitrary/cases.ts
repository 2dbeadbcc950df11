/** How many cases a law tries. */
const scale = Number(process.env["LORIKEET_LAW_SCALE"] ?? 1);

/** `count` cases, more where LORIKEET_LAW_SCALE asks for more. */
export const cases = (count: number): { numRuns: number } => ({ numRuns: Math.ceil(count * scale) });
