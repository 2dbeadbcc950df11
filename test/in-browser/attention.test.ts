/** Attention's shaders on webgpu, its passes on webgl2. */
import { attentionOn } from "../arbitrary/attention.ts";
import { variants } from "../arbitrary/devices.ts";

attentionOn(variants);
