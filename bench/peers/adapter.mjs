/** Prints what WebGPU computes on in Node. Run by gpu.ts with PEERS_DIR: node adapter.mjs dawn=1 */
import { readFileSync } from "node:fs";
import { finish, say } from "./node.mjs";

const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
if (adapter) {
  const { vendor, architecture, description } = adapter.info;
  const dawn = JSON.parse(readFileSync(`${process.env.PEERS_DIR}/node_modules/webgpu/package.json`, "utf8")).version;
  say({ "webgpu (Dawn)": dawn, adapter: [vendor, architecture, description].filter(Boolean).join(" ") });
}
finish();
