// npm run web: builds the page into dist/web and serves it on this machine. `npm run web -- --dev` serves the sources instead, `--build`
// stops when it is built, `--port N` picks the port, `--plain` leaves out the headers that let the page use threads.
import { join } from "node:path";
import { install, root, say } from "./prepare.mjs";

const args = process.argv.slice(2);
const has = (name) => args.includes(name);
const port = has("--port") ? Number(args[args.indexOf("--port") + 1]) : undefined;
if (!install()) process.exit(1);
const { build, createServer, preview } = await import("vite");
const where = port ? { port, strictPort: true } : {};
const mode = has("--plain") ? "plain" : "production";
const config = { configFile: join(root, "web/vite.config.ts"), logLevel: "warn", mode, server: where, preview: where };
if (has("--dev")) {
  const server = await createServer(config);
  await server.listen();
  server.printUrls();
} else {
  say("lorikeet: building the page ...");
  await build(config);
  if (!has("--build")) (await preview(config)).printUrls();
}
