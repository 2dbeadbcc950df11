/** Long rows and many indices without a GPU. */
import { gpuVariants } from "../arbitrary/devices.ts";
import { manyRowsOn } from "../arbitrary/many-rows.ts";

manyRowsOn(gpuVariants);
