/** Parts of GPU.js 2.24.1 that it does not document. The exact version is pinned; every test in mode webgpu would show one that is missing. */

/** GPU.js counts references on the buffers themselves. */
export type CountedBuffer = GPUBuffer & { _refs: number };

/** GPU.js's handle of a value in mode webgpu. */
export interface BufferResult {
  readonly buffer: CountedBuffer;
  delete(): void;
}

/** The one device of the page. */
export interface WebGpuContext {
  readonly adapter?: GPUAdapter;
  readonly device: GPUDevice;
  readonly isLost: boolean;
}

/** A kernel in mode webgpu. */
export interface WebGpuKernel {
  built: boolean;
  /** Writes the shader, then calls `_buildAsync`. */
  build(...args: unknown[]): Promise<void>;
  _buildAsync(): Promise<void>;
  readonly compiledSource: string;
  readonly paramsLayout: { readonly arrayArgs: readonly unknown[]; readonly byteLength: number };
  context: WebGpuContext;
  _device: GPUDevice;
  bindGroupLayout: GPUBindGroupLayout;
  computePipeline: GPUComputePipeline;
  paramsBuffer: GPUBuffer;
  paramsMirror: ArrayBuffer;
  paramsU32: Uint32Array;
  paramsI32: Int32Array;
  paramsF32: Float32Array;
  constantBuffers: GPUBuffer[];
  /** Submits at once, though it gives a promise. */
  _runInternal(snapshot: unknown): Promise<BufferResult>;
  _snapshotArguments(args: readonly unknown[]): unknown;
  /** Gives the shader. */
  assembleWGSL(): string;
  workgroupSize: [number, number, number];
  outputBuffer: CountedBuffer | null;
  bindGroupDirty: boolean;
}

/** GPU.js's handle of a value in the modes of WebGL. */
export interface GlTexture {
  readonly type: string;
  readonly texture: WebGLTexture;
  readonly size: ArrayLike<number>;
  readonly context: WebGL2RenderingContext;
  /** All kernels of a context share the array. */
  readonly kernel: { readonly maxTexSize: readonly [width: number, height: number] };
  readonly internalFormat: number;
  readonly textureFormat: number;
  delete(): void;
  toArray(): Float32Array;
}

/** A kernel in the modes of WebGL. */
export interface GlKernel {
  /** Width and height of the texture that it writes. */
  readonly texSize: ArrayLike<number>;
  compiledFragmentShader: string | null;
  /** Gives the shader, once. */
  getFragmentShader(args: unknown): string;
}
