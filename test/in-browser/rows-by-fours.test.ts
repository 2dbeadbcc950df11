/** Rows by fours on webgl2, and on webgpu with the kernels for software and with those for cards. */
import { variants } from "../arbitrary/devices.ts";
import { rowsByFoursOn } from "../arbitrary/rows-by-fours.ts";

rowsByFoursOn(variants);
