/** GPU.js alone: kernels written by hand. Run by peers.ts with PEERS_DIR: node gpu.mjs WORK mode=cpu|webasm */
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";
import { compete, option } from "./workload.mjs";

const start = performance.now();
const { GPU, input } = createRequire(`${process.env.PEERS_DIR}/x.js`)("gpu.js");
const gpu = new GPU({ mode: option("mode", "webasm") });
const importMs = performance.now() - start;

const kernel = (f, output, constants = {}) => gpu.createKernel(f, { output, constants, precision: "single" });
const rows = ([r, c]) => [c, r];
/** Kernels are made once for the shapes of the operands. */
const operations = {
  matmul(a, b, { turnA, turnB }) {
    if (turnA || turnB) return null;
    const [[M, n], [, N]] = [a.shape, b.shape];
    const multiply = kernel(
      function (A, B) {
        let sum = 0;
        for (let i = 0; i < this.constants.n; i++) sum += A[this.thread.y][i] * B[i][this.thread.x];
        return sum;
      },
      [N, M],
      { n },
    );
    return () => multiply(a.value, b.value);
  },
  chain(x) {
    const chain = kernel(function (A) {
      const v = A[this.thread.y][this.thread.x];
      return Math.tanh(v * 1.5 + 0.3) * (1 / (1 + Math.exp(-v))) - v * v;
    }, rows(x.shape));
    return () => chain(x.value);
  },
  softmax(x) {
    const [n, columns] = x.shape;
    const largest = kernel(
      function (A) {
        let most = A[this.thread.x][0];
        for (let j = 1; j < this.constants.columns; j++) most = Math.max(most, A[this.thread.x][j]);
        return most;
      },
      [n],
      { columns },
    );
    const total = kernel(
      function (A, most) {
        let sum = 0;
        for (let j = 0; j < this.constants.columns; j++) sum += Math.exp(A[this.thread.x][j] - most[this.thread.x]);
        return sum;
      },
      [n],
      { columns },
    );
    const divide = kernel(function (A, most, sum) {
      return Math.exp(A[this.thread.y][this.thread.x] - most[this.thread.y]) / sum[this.thread.y];
    }, rows(x.shape));
    return () => {
      const most = largest(x.value);
      return divide(x.value, most, total(x.value, most));
    };
  },
  rmsNorm(x, w) {
    const [n, columns] = x.shape;
    const scale = kernel(
      function (A) {
        let sum = 0;
        for (let j = 0; j < this.constants.columns; j++) sum += A[this.thread.x][j] * A[this.thread.x][j];
        return 1 / Math.sqrt(sum / this.constants.columns + 1e-5);
      },
      [n],
      { columns },
    );
    const apply = kernel(function (A, s, W) {
      return A[this.thread.y][this.thread.x] * s[this.thread.y] * W[this.thread.x];
    }, rows(x.shape));
    return () => apply(x.value, scale(x.value), w.value);
  },
};

await compete({
  importMs,
  operations,
  tensor: (data, shape) => ({ shape, value: shape.length === 2 ? input(data, rows(shape)) : data }),
  measured(f, tensors) {
    const run = f(...tensors);
    if (!run) throw new Error("not written for transposed operands");
    return {
      run,
      read: async () => Float32Array.from(Array.from(await run(), (row) => [...row]).flat()),
    };
  },
});
