/** Long rows and many indices without a GPU. */
import { variants } from "../arbitrary/devices.ts";
import { manyRowsOn } from "../arbitrary/many-rows.ts";

manyRowsOn(variants.filter(({ name }) => name.startsWith("gpu")));
