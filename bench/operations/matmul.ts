/** How close are products of matrices to the processor's limit: square ones, transposed ones, those of LoRA, and of one token? */
import { matmul } from "../../src/graph/contraction.ts";
import { transpose } from "../../src/graph/movement.ts";
import type { Case } from "./case.ts";

const product = (name: string, a: readonly number[], b: readonly number[], bar?: number): Case => {
  const [turnedA, turnedB] = [name.includes("Aᵀ"), name.includes("Bᵀ")];
  return {
    name,
    shapes: [a, b],
    run: (x, y) => matmul(turnedA ? transpose(x!) : x!, turnedB ? transpose(y!) : y!),
    ...(bar !== undefined && { bar }),
  };
};

export const cases: readonly Case[] = [
  product("matmul 256³", [256, 256], [256, 256], 1 / 0.9),
  product("matmul 512³", [512, 512], [512, 512], 1 / 0.9),
  product("matmul 1024³", [1024, 1024], [1024, 1024], 1 / 0.9),
  product("A·Bᵀ 512³", [512, 512], [512, 512]),
  product("Aᵀ·B 256×512·512×256", [512, 256], [512, 256]),
  product("LoRA down x·Bᵀ 512×256·256×8", [512, 256], [8, 256]),
  product("LoRA up h·Bᵀ 512×8·8×256", [512, 8], [256, 8]),
  product("one token x·Bᵀ 1×256·256×688", [1, 256], [688, 256]),
];
