/** Long rows and many indices on webgpu and webgl2. */
import { variants } from "../arbitrary/devices.ts";
import { manyRowsOn } from "../arbitrary/many-rows.ts";

manyRowsOn(variants);
