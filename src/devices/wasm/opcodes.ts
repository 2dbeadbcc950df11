/** WebAssembly instruction numbers by their names in the specification (core 2.0, threads, relaxed SIMD); what `assembler.ts` emits. */

/** Instructions without immediates: they take everything from the stack. A prefixed number is written prefix · 0x1000 + number. */
// biome-ignore format: a table reads better in rows
export const simple = {
  "unreachable": 0x00, "nop": 0x01, "return": 0x0f, "drop": 0x1a, "select": 0x1b,
  "i32.eqz": 0x45, "i32.eq": 0x46, "i32.ne": 0x47, "i32.lt_s": 0x48, "i32.lt_u": 0x49, "i32.gt_s": 0x4a, "i32.gt_u": 0x4b,
  "i32.le_s": 0x4c, "i32.le_u": 0x4d, "i32.ge_s": 0x4e, "i32.ge_u": 0x4f,
  "i64.eqz": 0x50, "i64.eq": 0x51, "i64.ne": 0x52, "i64.lt_s": 0x53, "i64.lt_u": 0x54, "i64.gt_s": 0x55, "i64.gt_u": 0x56,
  "i64.le_s": 0x57, "i64.le_u": 0x58, "i64.ge_s": 0x59, "i64.ge_u": 0x5a,
  "f32.eq": 0x5b, "f32.ne": 0x5c, "f32.lt": 0x5d, "f32.gt": 0x5e, "f32.le": 0x5f, "f32.ge": 0x60,
  "f64.eq": 0x61, "f64.ne": 0x62, "f64.lt": 0x63, "f64.gt": 0x64, "f64.le": 0x65, "f64.ge": 0x66,
  "i32.clz": 0x67, "i32.ctz": 0x68, "i32.popcnt": 0x69, "i32.add": 0x6a, "i32.sub": 0x6b, "i32.mul": 0x6c,
  "i32.div_s": 0x6d, "i32.div_u": 0x6e, "i32.rem_s": 0x6f, "i32.rem_u": 0x70, "i32.and": 0x71, "i32.or": 0x72, "i32.xor": 0x73,
  "i32.shl": 0x74, "i32.shr_s": 0x75, "i32.shr_u": 0x76, "i32.rotl": 0x77, "i32.rotr": 0x78,
  "i64.add": 0x7c, "i64.sub": 0x7d, "i64.mul": 0x7e, "i64.div_s": 0x7f, "i64.div_u": 0x80, "i64.rem_s": 0x81, "i64.rem_u": 0x82,
  "i64.and": 0x83, "i64.or": 0x84, "i64.xor": 0x85, "i64.shl": 0x86, "i64.shr_s": 0x87, "i64.shr_u": 0x88,
  "f32.abs": 0x8b, "f32.neg": 0x8c, "f32.ceil": 0x8d, "f32.floor": 0x8e, "f32.trunc": 0x8f, "f32.nearest": 0x90, "f32.sqrt": 0x91,
  "f32.add": 0x92, "f32.sub": 0x93, "f32.mul": 0x94, "f32.div": 0x95, "f32.min": 0x96, "f32.max": 0x97, "f32.copysign": 0x98,
  "f64.abs": 0x99, "f64.neg": 0x9a, "f64.ceil": 0x9b, "f64.floor": 0x9c, "f64.trunc": 0x9d, "f64.nearest": 0x9e, "f64.sqrt": 0x9f,
  "f64.add": 0xa0, "f64.sub": 0xa1, "f64.mul": 0xa2, "f64.div": 0xa3, "f64.min": 0xa4, "f64.max": 0xa5, "f64.copysign": 0xa6,
  "i32.wrap_i64": 0xa7, "i64.extend_i32_s": 0xac, "i64.extend_i32_u": 0xad,
  "f32.convert_i32_s": 0xb2, "f32.convert_i32_u": 0xb3, "f32.demote_f64": 0xb6,
  "f64.convert_i32_s": 0xb7, "f64.convert_i32_u": 0xb8, "f64.promote_f32": 0xbb,
  "i32.reinterpret_f32": 0xbc, "f32.reinterpret_i32": 0xbe, "i32.extend8_s": 0xc0, "i32.extend16_s": 0xc1,

  "i8x16.swizzle": 0xfd000 + 14, "i8x16.splat": 0xfd000 + 15, "i16x8.splat": 0xfd000 + 16, "i32x4.splat": 0xfd000 + 17,
  "i64x2.splat": 0xfd000 + 18, "f32x4.splat": 0xfd000 + 19, "f64x2.splat": 0xfd000 + 20,
  "i8x16.eq": 0xfd000 + 35, "i8x16.ne": 0xfd000 + 36, "i8x16.lt_s": 0xfd000 + 37, "i8x16.lt_u": 0xfd000 + 38,
  "i16x8.eq": 0xfd000 + 45, "i16x8.ne": 0xfd000 + 46, "i16x8.lt_s": 0xfd000 + 47, "i16x8.lt_u": 0xfd000 + 48,
  "i32x4.eq": 0xfd000 + 55, "i32x4.ne": 0xfd000 + 56, "i32x4.lt_s": 0xfd000 + 57, "i32x4.lt_u": 0xfd000 + 58, "i32x4.gt_s": 0xfd000 + 59,
  "i32x4.gt_u": 0xfd000 + 60, "i32x4.le_s": 0xfd000 + 61, "i32x4.le_u": 0xfd000 + 62, "i32x4.ge_s": 0xfd000 + 63, "i32x4.ge_u": 0xfd000 + 64,
  "f32x4.eq": 0xfd000 + 65, "f32x4.ne": 0xfd000 + 66, "f32x4.lt": 0xfd000 + 67, "f32x4.gt": 0xfd000 + 68, "f32x4.le": 0xfd000 + 69, "f32x4.ge": 0xfd000 + 70,
  "f64x2.eq": 0xfd000 + 71, "f64x2.ne": 0xfd000 + 72, "f64x2.lt": 0xfd000 + 73, "f64x2.gt": 0xfd000 + 74, "f64x2.le": 0xfd000 + 75, "f64x2.ge": 0xfd000 + 76,
  "v128.not": 0xfd000 + 77, "v128.and": 0xfd000 + 78, "v128.andnot": 0xfd000 + 79, "v128.or": 0xfd000 + 80, "v128.xor": 0xfd000 + 81,
  "v128.bitselect": 0xfd000 + 82, "v128.any_true": 0xfd000 + 83, "f32x4.demote_f64x2_zero": 0xfd000 + 94, "f64x2.promote_low_f32x4": 0xfd000 + 95,
  "i8x16.abs": 0xfd000 + 96, "i8x16.neg": 0xfd000 + 97, "i8x16.popcnt": 0xfd000 + 98, "i8x16.all_true": 0xfd000 + 99, "i8x16.bitmask": 0xfd000 + 100,
  "i8x16.narrow_i16x8_s": 0xfd000 + 101, "i8x16.narrow_i16x8_u": 0xfd000 + 102,
  "f32x4.ceil": 0xfd000 + 103, "f32x4.floor": 0xfd000 + 104, "f32x4.trunc": 0xfd000 + 105, "f32x4.nearest": 0xfd000 + 106,
  "i8x16.shl": 0xfd000 + 107, "i8x16.shr_s": 0xfd000 + 108, "i8x16.shr_u": 0xfd000 + 109, "i8x16.add": 0xfd000 + 110, "i8x16.sub": 0xfd000 + 113,
  "i8x16.min_s": 0xfd000 + 118, "i8x16.min_u": 0xfd000 + 119, "i8x16.max_s": 0xfd000 + 120, "i8x16.max_u": 0xfd000 + 121,
  "f64x2.ceil": 0xfd000 + 116, "f64x2.floor": 0xfd000 + 117, "f64x2.trunc": 0xfd000 + 122, "f64x2.nearest": 0xfd000 + 148,
  "i16x8.abs": 0xfd000 + 128, "i16x8.neg": 0xfd000 + 129, "i16x8.all_true": 0xfd000 + 131, "i16x8.bitmask": 0xfd000 + 132,
  "i16x8.narrow_i32x4_s": 0xfd000 + 133, "i16x8.narrow_i32x4_u": 0xfd000 + 134,
  "i16x8.extend_low_i8x16_s": 0xfd000 + 135, "i16x8.extend_high_i8x16_s": 0xfd000 + 136, "i16x8.extend_low_i8x16_u": 0xfd000 + 137, "i16x8.extend_high_i8x16_u": 0xfd000 + 138,
  "i16x8.shl": 0xfd000 + 139, "i16x8.shr_s": 0xfd000 + 140, "i16x8.shr_u": 0xfd000 + 141, "i16x8.add": 0xfd000 + 142, "i16x8.sub": 0xfd000 + 145, "i16x8.mul": 0xfd000 + 149,
  "i16x8.min_s": 0xfd000 + 150, "i16x8.min_u": 0xfd000 + 151, "i16x8.max_s": 0xfd000 + 152, "i16x8.max_u": 0xfd000 + 153,
  "i32x4.abs": 0xfd000 + 160, "i32x4.neg": 0xfd000 + 161, "i32x4.all_true": 0xfd000 + 163, "i32x4.bitmask": 0xfd000 + 164,
  "i32x4.extend_low_i16x8_s": 0xfd000 + 167, "i32x4.extend_high_i16x8_s": 0xfd000 + 168, "i32x4.extend_low_i16x8_u": 0xfd000 + 169, "i32x4.extend_high_i16x8_u": 0xfd000 + 170,
  "i32x4.shl": 0xfd000 + 171, "i32x4.shr_s": 0xfd000 + 172, "i32x4.shr_u": 0xfd000 + 173, "i32x4.add": 0xfd000 + 174, "i32x4.sub": 0xfd000 + 177, "i32x4.mul": 0xfd000 + 181,
  "i32x4.min_s": 0xfd000 + 182, "i32x4.min_u": 0xfd000 + 183, "i32x4.max_s": 0xfd000 + 184, "i32x4.max_u": 0xfd000 + 185, "i32x4.dot_i16x8_s": 0xfd000 + 186,
  "i64x2.abs": 0xfd000 + 192, "i64x2.neg": 0xfd000 + 193, "i64x2.extend_low_i32x4_s": 0xfd000 + 199, "i64x2.extend_high_i32x4_s": 0xfd000 + 200,
  "i64x2.extend_low_i32x4_u": 0xfd000 + 201, "i64x2.extend_high_i32x4_u": 0xfd000 + 202, "i64x2.shl": 0xfd000 + 203, "i64x2.shr_s": 0xfd000 + 204, "i64x2.shr_u": 0xfd000 + 205,
  "i64x2.add": 0xfd000 + 206, "i64x2.sub": 0xfd000 + 209, "i64x2.mul": 0xfd000 + 213,
  "i64x2.extmul_low_i32x4_s": 0xfd000 + 220, "i64x2.extmul_high_i32x4_s": 0xfd000 + 221, "i64x2.extmul_low_i32x4_u": 0xfd000 + 222, "i64x2.extmul_high_i32x4_u": 0xfd000 + 223,
  "f32x4.abs": 0xfd000 + 224, "f32x4.neg": 0xfd000 + 225, "f32x4.sqrt": 0xfd000 + 227, "f32x4.add": 0xfd000 + 228, "f32x4.sub": 0xfd000 + 229, "f32x4.mul": 0xfd000 + 230, "f32x4.div": 0xfd000 + 231,
  "f32x4.min": 0xfd000 + 232, "f32x4.max": 0xfd000 + 233, "f32x4.pmin": 0xfd000 + 234, "f32x4.pmax": 0xfd000 + 235,
  "f64x2.abs": 0xfd000 + 236, "f64x2.neg": 0xfd000 + 237, "f64x2.sqrt": 0xfd000 + 239, "f64x2.add": 0xfd000 + 240, "f64x2.sub": 0xfd000 + 241, "f64x2.mul": 0xfd000 + 242, "f64x2.div": 0xfd000 + 243,
  "f64x2.min": 0xfd000 + 244, "f64x2.max": 0xfd000 + 245, "f64x2.pmin": 0xfd000 + 246, "f64x2.pmax": 0xfd000 + 247,
  "i32x4.trunc_sat_f32x4_s": 0xfd000 + 248, "i32x4.trunc_sat_f32x4_u": 0xfd000 + 249, "f32x4.convert_i32x4_s": 0xfd000 + 250, "f32x4.convert_i32x4_u": 0xfd000 + 251,
  "i32x4.trunc_sat_f64x2_s_zero": 0xfd000 + 252, "i32x4.trunc_sat_f64x2_u_zero": 0xfd000 + 253, "f64x2.convert_low_i32x4_s": 0xfd000 + 254, "f64x2.convert_low_i32x4_u": 0xfd000 + 255,
  // saturating: never trap, NaN gives 0
  "i32.trunc_sat_f32_s": 0xfc000, "i32.trunc_sat_f32_u": 0xfc001,
  // relaxed SIMD: only where features.relaxedSimd
  "i8x16.relaxed_swizzle": 0xfd000 + 0x100, "f32x4.relaxed_madd": 0xfd000 + 0x105, "f32x4.relaxed_nmadd": 0xfd000 + 0x106,
  "f64x2.relaxed_madd": 0xfd000 + 0x107, "f64x2.relaxed_nmadd": 0xfd000 + 0x108, "i32x4.relaxed_laneselect": 0xfd000 + 0x10b,
  "i16x8.relaxed_dot_i8x16_i7x16_s": 0xfd000 + 0x112, "i32x4.relaxed_dot_i8x16_i7x16_add_s": 0xfd000 + 0x113,
} as const;

/** Loads: [number, log2 of the natural alignment]. */
// biome-ignore format: a table reads better in rows
export const loads = {
  "i32.load": [0x28, 2], "i64.load": [0x29, 3], "f32.load": [0x2a, 2], "f64.load": [0x2b, 3],
  "i32.load8_s": [0x2c, 0], "i32.load8_u": [0x2d, 0], "i32.load16_s": [0x2e, 1], "i32.load16_u": [0x2f, 1],
  "v128.load": [0xfd000, 4], "v128.load8x8_s": [0xfd001, 3], "v128.load8x8_u": [0xfd002, 3], "v128.load16x4_s": [0xfd003, 3], "v128.load16x4_u": [0xfd004, 3],
  "v128.load32x2_s": [0xfd005, 3], "v128.load32x2_u": [0xfd006, 3],
  "v128.load8_splat": [0xfd007, 0], "v128.load16_splat": [0xfd008, 1], "v128.load32_splat": [0xfd009, 2], "v128.load64_splat": [0xfd00a, 3],
  "v128.load32_zero": [0xfd000 + 92, 2], "v128.load64_zero": [0xfd000 + 93, 3],
  "i32.atomic.load": [0xfe010, 2],
} as const;

/** Stores, and the atomic operations that read, change and write: [number, log2 of the natural alignment]. */
// biome-ignore format: a table reads better in rows
export const stores = {
  "i32.store": [0x36, 2], "i64.store": [0x37, 3], "f32.store": [0x38, 2], "f64.store": [0x39, 3], "i32.store8": [0x3a, 0], "i32.store16": [0x3b, 1],
  "v128.store": [0xfd00b, 4],
  "i32.atomic.store": [0xfe017, 2],
} as const;

// biome-ignore format: a table reads better in rows
export const atomics = {
  "i32.atomic.rmw.add": [0xfe01e, 2], "i32.atomic.rmw.sub": [0xfe025, 2], "i32.atomic.rmw.and": [0xfe02c, 2], "i32.atomic.rmw.or": [0xfe033, 2],
  "i32.atomic.rmw.xor": [0xfe03a, 2], "i32.atomic.rmw.xchg": [0xfe041, 2], "i32.atomic.rmw.cmpxchg": [0xfe048, 2],
  "memory.atomic.notify": [0xfe000, 2], "memory.atomic.wait32": [0xfe001, 2],
} as const;

/** Instructions with a lane number. */
// biome-ignore format: a table reads better in rows
export const lanes = {
  "i8x16.extract_lane_s": 0xfd000 + 21, "i8x16.extract_lane_u": 0xfd000 + 22, "i8x16.replace_lane": 0xfd000 + 23,
  "i16x8.extract_lane_s": 0xfd000 + 24, "i16x8.extract_lane_u": 0xfd000 + 25, "i16x8.replace_lane": 0xfd000 + 26,
  "i32x4.extract_lane": 0xfd000 + 27, "i32x4.replace_lane": 0xfd000 + 28, "i64x2.extract_lane": 0xfd000 + 29, "i64x2.replace_lane": 0xfd000 + 30,
  "f32x4.extract_lane": 0xfd000 + 31, "f32x4.replace_lane": 0xfd000 + 32, "f64x2.extract_lane": 0xfd000 + 33, "f64x2.replace_lane": 0xfd000 + 34,
} as const;

/** Loads of one lane into a vector and stores of one lane: [number, log2 of the natural alignment]. */
// biome-ignore format: a table reads better in rows
export const laneAccesses = {
  "v128.load8_lane": [0xfd000 + 84, 0], "v128.load16_lane": [0xfd000 + 85, 1], "v128.load32_lane": [0xfd000 + 86, 2], "v128.load64_lane": [0xfd000 + 87, 3],
  "v128.store8_lane": [0xfd000 + 88, 0], "v128.store16_lane": [0xfd000 + 89, 1], "v128.store32_lane": [0xfd000 + 90, 2], "v128.store64_lane": [0xfd000 + 91, 3],
} as const;

/** An instruction without immediates. */
export type SimpleOp = keyof typeof simple;
/** An instruction that loads. */
export type LoadOp = keyof typeof loads;
/** An instruction that stores. */
export type StoreOp = keyof typeof stores;
/** An atomic instruction other than load and store. */
export type AtomicOp = keyof typeof atomics;
/** An instruction with a lane number. */
export type LaneOp = keyof typeof lanes;
/** An instruction that loads or stores one lane. */
export type LaneAccessOp = keyof typeof laneAccesses;
