/** Long rows without a GPU: folds thread by thread, or piece by piece. */
import { variants } from "../arbitrary/devices.ts";
import { longRowsOn } from "../arbitrary/long-rows.ts";

longRowsOn(variants.filter(({ name }) => name.startsWith("gpu")));
