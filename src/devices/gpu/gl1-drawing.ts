/**
 * Shaders of ours on the WebGL 1 context of GPU.js, where a texture has no layers: a shader with several results writes textures, which are
 * copied into the quarters of one. A product's four layers are the rows of its matrices by fours, so that a value may stay as it is: what
 * reads it is compiled for that, and nothing is unpacked.
 */
import { shaderHead } from "../../../kernels/gpu/matmul-glsl.ts";
import { Drawings, type Size } from "./gl-drawing.ts";
import { olderShader } from "./gl-shader.ts";
import type { GlKernel, GlTexture } from "./gpujs-internals.ts";
import type { Pass } from "./plan.ts";

/** A texture of ours: four floats a texel, one layer, or four that are its quarters. */
interface Texels {
  readonly texture: WebGLTexture;
  readonly size: Size;
  readonly columns?: undefined;
  delete(): void;
}

/** A flat value; with `columns`, one of rows by fours. */
export type FlatTexture = GlTexture & { readonly columns?: number };

const vertexShader = "attribute vec2 corner; void main() { gl_Position = vec4(corner, 0.0, 1.0); }";
const corners = Float32Array.of(-1, -1, 3, -1, -1, 3);
/** Where our corners lie: GPU.js has two attributes in its programs, which are the first. */
const cornerAttribute = 7;

/** Results that a shader must be able to have. */
const mostLayers = 4;

/** Whether a context can draw the shaders of ours. */
export function canDraw(gl: WebGLRenderingContext | null | undefined): boolean {
  const buffers = gl?.getExtension("WEBGL_draw_buffers");
  return Boolean(
    buffers &&
      [buffers.MAX_DRAW_BUFFERS_WEBGL, buffers.MAX_COLOR_ATTACHMENTS_WEBGL].every((name) => gl!.getParameter(name) >= mostLayers),
  );
}

export class WebGl1Drawings extends Drawings<FlatTexture | Texels> {
  protected override readonly corner = cornerAttribute;
  readonly #buffers: WEBGL_draw_buffers;

  constructor(flat: GlTexture, kernel: GlKernel) {
    super(flat, kernel, vertexShader);
    const { gl } = this;
    this.#buffers = gl.getExtension("WEBGL_draw_buffers")!;
    // the buffer that is bound now is GPU.js's, and stays it
    const bound = gl.getParameter(gl.ARRAY_BUFFER_BINDING) as WebGLBuffer | null;
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, corners, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(cornerAttribute);
    gl.vertexAttribPointer(cornerAttribute, 2, gl.FLOAT, false, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, bound);
  }

  protected override inVersion(shader: string): string {
    return olderShader(shader);
  }

  protected override kindOf(): number {
    return this.gl.TEXTURE_2D;
  }

  protected override targets({ layers = 1 }: Pass, size: Size): readonly WebGLTexture[] {
    const textures = Array.from({ length: layers }, () => this.#texture(size));
    this.attach(textures);
    return textures;
  }

  protected override drawCorners(): void {
    this.gl.drawArrays(this.gl.TRIANGLES, 0, 3);
  }

  protected override drawTo(places: readonly number[]): void {
    this.#buffers.drawBuffersWEBGL(places as number[]);
  }

  protected override results(
    { size: given, layers = 1, count, fours }: Pass,
    textures: readonly WebGLTexture[],
    size: Size,
  ): FlatTexture | Texels {
    if (!given) return this.#flat32(textures[0]!, size, count);
    if (layers === 1) return this.#texels(textures[0]!, size);
    const whole: Size = [2 * size[0], 2 * size[1]];
    const texture = this.#quarters(textures, size);
    return fours ? this.#foursOf(texture, whole, count, fours) : this.#texels(texture, whole);
  }

  /** Of four floats a texel, in any case. */
  #texture([width, height]: Size): WebGLTexture {
    const { gl } = this;
    return this.spareOrNew(`${width},${height}`, gl.TEXTURE_2D, gl.TEXTURE7, () =>
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, width, height, 0, gl.RGBA, gl.FLOAT, null),
    );
  }

  #giveBack(texture: WebGLTexture, [width, height]: Size): void {
    this.keep(`${width},${height}`, texture, 16 * width * height);
  }

  #texels(texture: WebGLTexture, size: Size): Texels {
    return { texture, size, delete: () => this.#giveBack(texture, size) };
  }

  #flat32(texture: WebGLTexture, size: Size, count: number): GlTexture {
    return this.flatOf(texture, size, count, () => this.#giveBack(texture, size));
  }

  /** Textures as the quarters of one. */
  #quarters(textures: readonly WebGLTexture[], [width, height]: Size): WebGLTexture {
    const { gl } = this;
    const whole = this.#texture([2 * width, 2 * height]);
    textures.forEach((texture, i) => {
      this.attach([texture]);
      gl.activeTexture(gl.TEXTURE7);
      gl.bindTexture(gl.TEXTURE_2D, whole);
      gl.copyTexSubImage2D(gl.TEXTURE_2D, 0, (i & 1) * width, (i >> 1) * height, 0, 0, width, height);
      this.#giveBack(texture, [width, height]);
    });
    return whole;
  }

  /** A texture of rows by fours as a flat value. */
  #foursOf(texture: WebGLTexture, size: Size, count: number, columns: number): FlatTexture {
    const flat: GlTexture & { renderValues?(): Float32Array } = this.#flat32(texture, size, count);
    const [width, height] = [size[0] / 2, size[1] / 2];
    const toArray = (): Float32Array => {
      const texels = flat.renderValues!();
      const values = new Float32Array(count);
      for (let row = 0; row * columns < count; row++) {
        const [across, down] = [(row & 1) * width, ((row >> 1) & 1) * height + (row >> 2)];
        const at = 4 * (2 * width * down + across);
        values.set(texels.subarray(at, at + columns), row * columns);
      }
      return values;
    };
    return Object.assign(flat, { columns, toArray });
  }
}

/** Makes a flat value of one element a texel of rows by fours. */
export const unpackFours = (count: number): Pass => ({ source: "", functions: [], args: [], count, glsl: unpackShader });

const unpackShader = `${shaderHead(["a"])}
void main() { data0 = vec4(own_a(), 0.0, 0.0, 0.0); }`;
