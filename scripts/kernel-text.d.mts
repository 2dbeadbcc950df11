/** JavaScript with `name.text = "function name…"` for every function that it exports. */
export function withTexts(path: string, code: string): string;
/** A plugin of Vite that does so to the kernels of the gpu device. */
export function kernelTexts(): { name: string; transform(code: string, id: string): { code: string; map: null } | null };
