/** Long rows without a GPU: folds thread by thread, or piece by piece. */
import { gpuVariants } from "../arbitrary/devices.ts";
import { longRowsOn } from "../arbitrary/long-rows.ts";

longRowsOn(gpuVariants);
