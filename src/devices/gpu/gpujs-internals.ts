/** Parts of GPU.js 2.24.1 that it does not document. The exact version is pinned; test/in-browser/pitfalls.test.ts would show one that is missing. */

/** GPU.js counts references on the buffers themselves. */
export type CountedBuffer = GPUBuffer & { _refs: number };

/** GPU.js's handle of a value in mode webgpu. */
export interface BufferResult {
  readonly buffer: CountedBuffer;
  delete(): void;
}

/** The one device of the page. */
export interface WebGpuContext {
  readonly device: GPUDevice;
  readonly isLost: boolean;
}

/** A kernel in mode webgpu. */
export interface WebGpuKernel {
  readonly built: boolean;
  build(...args: unknown[]): Promise<void>;
  /** Submits at once, though it gives a promise. */
  _runInternal(snapshot: unknown): Promise<BufferResult>;
  _snapshotArguments(args: readonly unknown[]): unknown;
  /** Gives the shader. */
  assembleWGSL(): string;
  workgroupSize: [number, number, number];
  outputBuffer: CountedBuffer | null;
  bindGroupDirty: boolean;
}
