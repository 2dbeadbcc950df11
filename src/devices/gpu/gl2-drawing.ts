/**
 * Shaders of ours on a context of WebGL 2. GPU.js's own kernels write one texture each: these may write the layers of one, so that a thread
 * computes more of what it has read.
 */
import type { GpuKernel } from "./backend.ts";
import { Drawings, flatSize, kernelOf, type Size } from "./gl-drawing.ts";
import type { GlKernel, GlTexture } from "./gpujs-internals.ts";
import type { Pass } from "./plan.ts";

/** A texture of ours: four floats a texel, one or several layers. */
interface Layered {
  readonly texture: WebGLTexture;
  readonly size: Size;
  readonly layers: number;
  readonly columns?: undefined;
  delete(): void;
}

type Read = (GlTexture & { readonly columns?: undefined }) | Layered;

const vertexShader = `#version 300 es
void main() { gl_Position = vec4(float(gl_VertexID & 1) * 4.0 - 1.0, float(gl_VertexID >> 1) * 4.0 - 1.0, 0.0, 1.0); }`;

export class WebGl2Drawings extends Drawings<Read> {
  declare protected readonly gl: WebGL2RenderingContext;
  readonly #vertices: WebGLVertexArrayObject;
  /** What `copier` copies through. */
  #rows: WebGLBuffer | null = null;
  #rowsBytes = 0;
  /** Whether flat values can be read as they are; known once one was asked for. */
  #readsFloats: boolean | null = null;

  constructor(flat: GlTexture, kernel: GlKernel) {
    super(flat, kernel, vertexShader);
    this.#vertices = this.gl.createVertexArray();
  }

  override kernelFor(pass: Pass): GpuKernel | null {
    if (pass.copiesFours) return this.#fours(pass);
    return super.kernelFor(pass) ?? (pass.copiedColumns ? this.#copier(pass) : null);
  }

  protected override inVersion(shader: string): string {
    return shader;
  }

  protected override kindOf(read: Read): number {
    return "layers" in read && read.layers > 1 ? this.gl.TEXTURE_2D_ARRAY : this.gl.TEXTURE_2D;
  }

  protected override targets({ size: given, layers = 1, count, also = [] }: Pass, size: Size): readonly WebGLTexture[] {
    const format = given ? this.gl.RGBA32F : this.gl.R32F;
    const textures = [count, ...also].map(() => this.#texture(size, layers, format));
    this.#attachLayers(textures, layers);
    return textures;
  }

  protected override drawCorners(): void {
    const { gl } = this;
    gl.bindVertexArray(this.#vertices);
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    gl.bindVertexArray(null);
  }

  protected override drawTo(places: readonly number[]): void {
    this.gl.drawBuffers(places);
  }

  protected override results({ size: given, layers = 1, count }: Pass, textures: readonly WebGLTexture[], size: Size): unknown {
    return textures.map((texture) => (given ? this.#layered(texture, given, layers) : this.#flat32(texture, size, count)));
  }

  #texture(size: Size, layers: number, format: number): WebGLTexture {
    const { gl } = this;
    const kind = layers > 1 ? gl.TEXTURE_2D_ARRAY : gl.TEXTURE_2D;
    return this.spareOrNew(`${size},${layers},${format}`, kind, gl.TEXTURE15, () => {
      if (layers > 1) gl.texStorage3D(kind, 1, format, ...size, layers);
      else gl.texStorage2D(kind, 1, format, ...size);
    });
  }

  #giveBack(texture: WebGLTexture, size: Size, layers: number, format: number): void {
    const [width, height] = size;
    this.keep(`${size},${layers},${format}`, texture, width * height * layers * (format === this.gl.R32F ? 4 : 16));
  }

  /** Draws to textures, or to the layers of one, and reads from them. */
  #attachLayers(textures: readonly WebGLTexture[], layers: number): void {
    const { gl } = this;
    if (layers === 1) {
      this.attach(textures);
      return;
    }
    this.bindFramebuffer(layers);
    for (let i = 0; i < layers; i++) gl.framebufferTextureLayer(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + i, textures[0]!, 0, i);
  }

  /** The buffer to copy through, bound to be written. */
  #bindRows(bytes: number): void {
    const { gl } = this;
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, (this.#rows ??= gl.createBuffer()));
    if (bytes > this.#rowsBytes) gl.bufferData(gl.PIXEL_PACK_BUFFER, (this.#rowsBytes = bytes), gl.STREAM_COPY);
  }

  /** Fills a texture from that buffer. */
  #fromRows(texture: WebGLTexture, size: Size, format: number): void {
    const { gl } = this;
    gl.bindBuffer(gl.PIXEL_PACK_BUFFER, null);
    gl.bindBuffer(gl.PIXEL_UNPACK_BUFFER, this.#rows);
    gl.activeTexture(gl.TEXTURE15);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, 0, ...size, format, gl.FLOAT, 0);
    gl.bindBuffer(gl.PIXEL_UNPACK_BUFFER, null);
  }

  #flat32(texture: WebGLTexture, size: Size, count: number): GlTexture {
    return this.flatOf(texture, size, count, () => this.#giveBack(texture, size, 1, this.gl.R32F));
  }

  /** A pass that copies the rows of matrices through a buffer to a flat value. */
  #copier({ copiedColumns, count }: Pass): GpuKernel {
    const { gl } = this;
    const columns = copiedColumns!;
    const size = flatSize(count);
    const run = ({ texture: from, size: [width, height], layers }: Layered): GlTexture => {
      const texture = this.#texture(size, 1, gl.R32F);
      // the flat value's texture may have a few elements more, and so may the rows
      const bytes = Math.max(16 * width * height * layers, 4 * size[0] * size[1]);
      this.#attachLayers([from], layers);
      this.#bindRows(bytes);
      // a layer's rows lie so many texels apart
      gl.pixelStorei(gl.PACK_ROW_LENGTH, columns);
      for (let i = 0; i < layers; i++) {
        gl.readBuffer(gl.COLOR_ATTACHMENT0 + i);
        gl.readPixels(0, 0, width, height, gl.RGBA, gl.FLOAT, 4 * columns * i);
      }
      gl.pixelStorei(gl.PACK_ROW_LENGTH, 0);
      this.#fromRows(texture, size, gl.RED);
      return this.#flat32(texture, size, count);
    };
    return kernelOf(run, () => {});
  }

  /** A pass that copies a flat value through a buffer to a texture of four floats a texel. */
  #fours(pass: Pass): GpuKernel {
    const { gl } = this;
    const size = pass.size!;
    let drawn: GpuKernel | null = null;
    const run = (flat: GlTexture): unknown => {
      const [width, height] = flat.size as unknown as [number, number];
      if (this.#readsFloats !== false) this.attach([flat.texture]);
      // which formats there are, beside four floats a texel, the driver says of what is attached
      this.#readsFloats ??=
        gl.getParameter(gl.IMPLEMENTATION_COLOR_READ_FORMAT) === gl.RED &&
        gl.getParameter(gl.IMPLEMENTATION_COLOR_READ_TYPE) === gl.FLOAT;
      if (!this.#readsFloats) return (drawn ??= this.drawn(pass))(flat);
      const texture = this.#texture(size, 1, gl.RGBA32F);
      this.#bindRows(Math.max(4 * width * height, 16 * size[0] * size[1]));
      gl.readBuffer(gl.COLOR_ATTACHMENT0);
      gl.readPixels(0, 0, width, height, gl.RED, gl.FLOAT, 0);
      this.#fromRows(texture, size, gl.RGBA);
      return this.#layered(texture, size, 1);
    };
    return kernelOf(run, () => drawn?.destroy());
  }

  #layered(texture: WebGLTexture, size: Size, layers: number): Layered {
    return { texture, size, layers, delete: () => this.#giveBack(texture, size, layers, this.gl.RGBA32F) };
  }
}
