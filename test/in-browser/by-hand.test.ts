/** Kernels by hand on WebGL: in mode webgl, and in mode webgl2 as on a card, which draws no shaders of ours for rows. */

import { byHandOn } from "../arbitrary/by-hand.ts";
import { inMode, onCard } from "../arbitrary/devices.ts";
import { nearlyByHandOn } from "../arbitrary/nearly-by-hand.ts";

const variants = [inMode("webgl"), onCard("webgl2")];
byHandOn(variants, false);
nearlyByHandOn([...variants, inMode("webgpu")], false);
