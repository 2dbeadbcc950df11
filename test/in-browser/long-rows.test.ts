/** Long rows on webgpu, in shaders of our own, and on webgl2. */
import { variants } from "../arbitrary/devices.ts";
import { longRowsOn } from "../arbitrary/long-rows.ts";

longRowsOn(variants);
