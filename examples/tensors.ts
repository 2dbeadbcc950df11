import { compile, grad, hvp, type Tensor, tensor, Variable } from "lorikeet";

// shapes and dtypes are checked immediately; nothing is computed until you ask for a value
const x = tensor([
  [1, 2, 3],
  [4, 5, 6],
]);
console.log(x.slice(":, ::2").toArray()); // [ [ 1, 3 ], [ 4, 6 ] ]
console.log(x.rearrange("row (half column) -> half row column", { half: 3 }).shape); // [ 3, 2, 1 ]

// a gradient is part of the graph, so it can be differentiated again
const energy = (x: Tensor) => x.square().sum().sqrt();
const [slope] = grad(energy)(tensor([3, 4]));
console.log(slope?.print()); // [0.6 0.8] float32 [2]
console.log(hvp(energy, tensor([3, 4]), tensor([1, 0])).print()); // [ 0.128 -0.096] float32 [2]

// the PyTorch way
const weight = new Variable(tensor([[0.5], [-0.5], [1]]));
x.matmul(weight.value).relu().sum().backward();
console.log(weight.grad?.reshape([3]).toArray()); // [ 5, 7, 9 ]

// traced once, then replayed; explain() lists the kernels, their work and the memory plan
const probabilities = compile((logits: Tensor) => logits.softmax(-1));
console.log(probabilities(x).argmax(-1).toArray()); // [ 2, 2 ]
console.log(probabilities.explain());
