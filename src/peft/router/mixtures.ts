/** The mixtures of LoRA experts, by what puts them on a model. They are no adapters of their own, so that `attach` does not take them. */
export const mixtures = {
  loadArrow: {
    peftType: "LORA",
    formula: "W·x + Σₑ cₑ(x)·sₑ·Bₑ·Aₑ·x, c = softmax of the k largest |x·pₑ| / τ",
    papers: ["https://arxiv.org/abs/2405.11157", "https://arxiv.org/abs/2505.10939"],
  },
  createXlora: {
    peftType: "XLORA",
    formula: "W·x + g·Σₑ wₑ(h)·sₑ·Bₑ·Aₑ·x, w of the model's own last states h",
    papers: ["https://arxiv.org/abs/2402.07148"],
  },
} as const;
