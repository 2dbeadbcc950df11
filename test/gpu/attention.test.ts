/** Attention's passes without a GPU. */
import { attentionOn } from "../arbitrary/attention.ts";
import { variants } from "../arbitrary/devices.ts";

attentionOn(variants.filter(({ name }) => name.startsWith("gpu")));
