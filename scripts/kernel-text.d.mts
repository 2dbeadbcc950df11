/** JavaScript with `name.text = "function name…"` for every function that it exports. */
export function withTexts(path: string, code: string): string;
