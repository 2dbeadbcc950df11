/** Attention's passes without a GPU. */
import { attentionOn } from "../arbitrary/attention.ts";
import { gpuVariants } from "../arbitrary/devices.ts";

attentionOn(gpuVariants);
