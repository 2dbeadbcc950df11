// What counts as a line of code: not blank, not comment.
import { parseSync } from "vite";

/** Comments are blanked out by the parser's own positions, so that `//` in a string or a template counts as code. */
export function linesOfCode(path, text) {
  let code = text;
  for (const { start, end } of parseSync(path, text).comments) {
    code = code.slice(0, start) + code.slice(start, end).replace(/[^\n]/g, " ") + code.slice(end);
  }
  return code.split("\n").filter((line) => line.trim() !== "").length;
}
