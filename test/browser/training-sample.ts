/** What every bundle is asked for: a few steps of LoRA on the tiny model, from files in memory. Runs in Node and in browsers. */
import { currentDevice, grad, type Tensor, tensor } from "lorikeet";
import { attach, lora, merge } from "lorikeet/peft";
import { textDataset } from "lorikeet/text";
import { finetuning, loadModel } from "lorikeet/train";

export interface TrainingSample {
  readonly device: string;
  readonly slope: readonly number[];
  readonly losses: readonly number[];
  /** Sum of the logits' absolute values, after merging. */
  readonly logits: number;
}

/** @param files those of models/tiny by name */
export async function trainingSample(files: Readonly<Record<string, Uint8Array>>, text: string): Promise<TrainingSample> {
  const energy = (x: Tensor) => x.square().sum().sqrt().mul(x.gelu().sum());
  const slope = grad(energy)(tensor([3, 4]))[0] as Tensor;
  const { model, tokenizer } = await loadModel({ files });
  const dataset = textDataset({ text }, tokenizer, { window: 32, seed: 3 });
  attach(model, lora({ r: 4, loraAlpha: 8, targetModules: "all-linear", loraDropout: 0.1 }));
  const losses: number[] = [];
  using trainer = finetuning(model, dataset, { steps: 4, batchSize: 4, learningRate: 1e-2, seed: 3 });
  await trainer.run({ onStep: ({ loss }) => void losses.push(loss) });
  merge(model);
  model.eval();
  const logits = model.forward({ inputIds: tensor([[...tokenizer.encode("The whale")]], { dtype: "int32" }) }).logits;
  return {
    device: currentDevice().about,
    slope: [...(await slope.data())].map(Number),
    losses,
    logits: Number((await logits.abs().sum().data())[0]),
  };
}
