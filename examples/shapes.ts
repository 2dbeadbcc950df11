import { type Shaped, shaped, zeros } from "lorikeet";

type Heads<B extends number, T extends number> = Shaped<[B, T, 64]>;
const attend = <B extends number, T extends number>(q: Heads<B, T>, k: Heads<B, T>, v: Heads<B, T>): Heads<B, T> =>
  q.matmul(k.transpose()).div(8).softmax().matmul(v); // does not compile without transpose()
const heads = shaped(zeros([2, 16, 64]), [2, 16, 64]);
const total: Shaped<[2, 16]> = attend(heads, heads, heads).sum(-1);
console.log(total.shape); // [ 2, 16 ]
