/** Parts of GPU.js 2.24.1 that it does not document. The exact version is pinned; every test in mode webgpu would show one that is missing. */

declare global {
  // what the type names, for programs whose `lib` has no browser in it; where it has, this adds nothing
  interface GPUAdapter {}
  interface GPUBindGroupLayout {}
  interface GPUBuffer {}
  interface GPUComputePipeline {}
  interface GPUDevice {}
  interface WebGLRenderingContext {}
  interface WebGL2RenderingContext {}
  interface WebGLBuffer {}
  interface WebGLTexture {}
  interface WebGLFramebuffer {}
  interface EventTarget {}
}

/** GPU.js's handle of a value in mode webgpu. */
export interface BufferResult {
  readonly buffer: GPUBuffer;
  /** Extents, the innermost first. */
  readonly output: readonly number[];
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
  /** Where the uniforms lie: four whole numbers of the launch, then four for each array, then the numbers. */
  readonly paramsLayout: {
    readonly arrayArgs: readonly { readonly index: number; readonly dimsOffset: number }[];
    readonly scalarArgs: readonly { readonly index: number; readonly offset: number; readonly type: string }[];
    readonly byteLength: number;
  };
  readonly output: readonly number[];
  _computeDispatch(threads: readonly number[]): { readonly groups: [number, number, number]; readonly dispatchWidth: number };
  context: WebGpuContext;
  _device: GPUDevice;
  bindGroupLayout: GPUBindGroupLayout;
  computePipeline: GPUComputePipeline;
  paramsMirror: ArrayBuffer;
  paramsU32: Uint32Array;
  paramsI32: Int32Array;
  paramsF32: Float32Array;
  /** Gives the shader. */
  assembleWGSL(): string;
  workgroupSize: [number, number, number];
}

/** What a value asks of the kernel that made it. */
export interface TextureOwner {
  deleteTexture(texture: WebGLTexture): void;
  getRawValueFramebuffer(): WebGLFramebuffer;
}

/** GPU.js's handle of a value in the modes of WebGL. */
export interface GlTexture {
  readonly type: string;
  readonly texture: WebGLTexture;
  readonly size: ArrayLike<number>;
  readonly context: WebGL2RenderingContext;
  /** Whom it asks to be deleted, and for what it is read with. */
  kernel: TextureOwner;
  readonly internalFormat: number;
  readonly textureFormat: number;
  delete(): void;
  toArray(): Float32Array;
}

/** A kernel in the modes of WebGL. */
export interface GlKernel {
  /** Width and height of the texture that it writes. */
  readonly texSize: ArrayLike<number>;
  readonly argumentNames: readonly string[];
  /** Width and height of the largest one; all kernels of a context share the array. */
  readonly maxTexSize: readonly [width: number, height: number];
  /** Textures that it made and deletes when it goes. */
  readonly textureCache: WebGLTexture[];
  /** Of the vertices; made when it is built, if there is none. */
  buffer: WebGLBuffer | null;
  compiledFragmentShader: string | null;
  /** Gives the shader, once. */
  getFragmentShader(args: ArrayLike<unknown>): string;
}
