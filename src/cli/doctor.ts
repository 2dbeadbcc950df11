/** `lorikeet doctor`: which devices run here, how fast, and why the others do not. */
import process from "node:process";
import type { Command } from "commander";
import { probeDevices } from "../devices/choose.ts";
import type { Probe } from "../devices/probe.ts";

const nameOf = ({ name, mode }: Probe): string => (mode === undefined ? name : `${name} ${mode}`);

const line = (probe: Probe): string => {
  const { works, milliseconds, reason } = probe;
  return [
    nameOf(probe).padEnd(16),
    works ? "works" : "no   ",
    works ? `${milliseconds!.toFixed(1).padStart(9)} ms` : `${"".padStart(12)}`,
    works ? "" : ` ${reason}`,
  ]
    .join(" ")
    .trimEnd();
};

/** Adds `lorikeet doctor`. It ends with 0 when some device works, else with 1. */
export function addDoctor(program: Command): void {
  program
    .command("doctor")
    .description("try every device: a small forward and gradient pass against the reference device, then its speed")
    .action(async () => {
      process.stdout.write(`Node ${process.version}, ${process.platform} ${process.arch}\n`);
      process.stdout.write(`${"device".padEnd(16)} works  4 products of 256×256\n`);
      // a package that is absent keeps every mode of a device from running
      const toldAt = new Map<string, string>();
      const onProbe = (report: Probe): void => {
        const { reason = "" } = report;
        const before = toldAt.get(reason);
        if (!report.works && !before) toldAt.set(reason, nameOf(report));
        process.stdout.write(`${line(before ? { ...report, reason: `as ${before}` } : report)}\n`);
      };
      const reports = await probeDevices({ onProbe });
      // what a driver has left running in the background must not keep the answer from ending
      process.stdout.write("", () => process.exit(reports.some(({ works }) => works) ? 0 : 1));
    });
}
