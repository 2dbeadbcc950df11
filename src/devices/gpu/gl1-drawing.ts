/**
 * Shaders of ours on the WebGL 1 context of GPU.js, where a texture has no layers: a shader with several results writes textures, which are
 * copied into the quarters of one. A product's four layers are the rows of its matrices by fours, so that a value may stay as it is: what
 * reads it is compiled for that, and nothing is unpacked.
 */
import { shaderHead } from "../../../kernels/gpu/matmul-glsl.ts";
import type { GpuKernel } from "./backend.ts";
import { flatLike, flatSize, kernelOf, mostSpare, namesOf, programOf, shaderOf } from "./gl-drawing.ts";
import { type Held, olderShader, ourShader } from "./gl-shader.ts";
import type { GlKernel, GlTexture } from "./gpujs-internals.ts";
import type { Pass } from "./plan.ts";
import { Spare } from "./spare.ts";

/** A texture of ours: four floats a texel, one layer, or four that are its quarters. */
interface Texels {
  readonly texture: WebGLTexture;
  readonly size: readonly [width: number, height: number];
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

export class OlderDrawings {
  private readonly spare = new Spare<WebGLTexture>(mostSpare, (texture) => this.gl.deleteTexture(texture));
  private readonly gl: WebGLRenderingContext;
  private readonly buffers: WEBGL_draw_buffers;
  /** A flat value that GPU.js has made; others are made after it. */
  private readonly given: GlTexture;
  private readonly maxTexSize: GlKernel["maxTexSize"];
  private readonly vertex: WebGLShader;
  private readonly framebuffers = new Map<number, WebGLFramebuffer>();

  /** @param kernel the one that made `given` */
  constructor(given: GlTexture, kernel: GlKernel) {
    this.given = given;
    this.maxTexSize = kernel.maxTexSize;
    const gl = (this.gl = given.context);
    this.buffers = gl.getExtension("WEBGL_draw_buffers")!;
    this.vertex = shaderOf(gl, gl.VERTEX_SHADER, vertexShader);
    // the buffer that is bound now is GPU.js's, and stays it
    const bound = gl.getParameter(gl.ARRAY_BUFFER_BINDING) as WebGLBuffer | null;
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, corners, gl.STATIC_DRAW);
    gl.enableVertexAttribArray(cornerAttribute);
    gl.vertexAttribPointer(cornerAttribute, 2, gl.FLOAT, false, 0, 0);
    gl.bindBuffer(gl.ARRAY_BUFFER, bound);
  }

  /** Draws to textures from now on. */
  private attach(textures: readonly WebGLTexture[]): void {
    const { gl, buffers } = this;
    const known = this.framebuffers.get(textures.length);
    const framebuffer = known ?? gl.createFramebuffer()!;
    gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
    textures.forEach((texture, i) => {
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + i, gl.TEXTURE_2D, texture, 0);
    });
    if (known) return;
    this.framebuffers.set(textures.length, framebuffer);
    buffers.drawBuffersWEBGL(textures.map((_, i) => gl.COLOR_ATTACHMENT0 + i));
  }

  /** A texture to write to, of four floats a texel: a new one would be filled with zeros first. */
  private texture([width, height]: readonly [number, number]): WebGLTexture {
    const { gl } = this;
    const known = this.spare.take(`${width},${height}`);
    if (known) return known;
    const texture = gl.createTexture()!;
    gl.activeTexture(gl.TEXTURE7);
    gl.bindTexture(gl.TEXTURE_2D, texture);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, gl.NEAREST);
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, width, height, 0, gl.RGBA, gl.FLOAT, null);
    return texture;
  }

  private giveBack(texture: WebGLTexture, [width, height]: readonly [number, number]): void {
    this.spare.give(`${width},${height}`, texture, 16 * width * height);
  }

  private flatOf(texture: WebGLTexture, size: readonly [number, number], count: number): GlTexture {
    return flatLike(this.given, texture, size, count, () => this.giveBack(texture, size));
  }

  /** Textures as the quarters of one. */
  private quarters(textures: readonly WebGLTexture[], [width, height]: readonly [number, number]): WebGLTexture {
    const { gl } = this;
    const whole = this.texture([2 * width, 2 * height]);
    textures.forEach((texture, i) => {
      this.attach([texture]);
      gl.activeTexture(gl.TEXTURE7);
      gl.bindTexture(gl.TEXTURE_2D, whole);
      gl.copyTexSubImage2D(gl.TEXTURE_2D, 0, (i & 1) * width, (i >> 1) * height, 0, 0, width, height);
      this.giveBack(texture, [width, height]);
    });
    return whole;
  }

  /** A texture of rows by fours as a flat value. */
  private foursOf(texture: WebGLTexture, size: readonly [number, number], count: number, columns: number): FlatTexture {
    const flat: GlTexture & { renderValues?(): Float32Array } = this.flatOf(texture, size, count);
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

  /** A pass with a shader of its own, which is compiled when it runs first: then the sizes of what it reads are known. */
  kernel({ glsl, size: given, layers = 1, count, fours }: Pass): GpuKernel {
    const { gl } = this;
    const size = given ?? flatSize(count);
    let program: WebGLProgram | null = null;
    const run = (...reads: readonly (FlatTexture | Texels)[]): FlatTexture | Texels => {
      if (program) gl.useProgram(program);
      else {
        const sizes = namesOf(glsl!).map((name, i): [string, Held] => {
          const { size, columns } = reads[i]!;
          return [name, [size[0], size[1], columns]];
        });
        program = programOf(gl, this.vertex, olderShader(ourShader(glsl!, new Map(sizes), size)), cornerAttribute);
      }
      const written = Array.from({ length: layers }, () => this.texture(size));
      this.attach(written);
      reads.forEach((read, unit) => {
        gl.activeTexture(gl.TEXTURE0 + unit);
        gl.bindTexture(gl.TEXTURE_2D, read.texture);
      });
      gl.viewport(0, 0, ...size);
      gl.scissor(0, 0, ...size);
      gl.drawArrays(gl.TRIANGLES, 0, 3);
      const [width, height] = this.maxTexSize;
      gl.viewport(0, 0, width, height);
      if (!given) return this.flatOf(written[0]!, size, count);
      if (layers === 1) return { texture: written[0]!, size, delete: () => this.giveBack(written[0]!, size) };
      const whole: readonly [number, number] = [2 * size[0], 2 * size[1]];
      const texture = this.quarters(written, size);
      if (fours) return this.foursOf(texture, whole, count, fours);
      return { texture, size: whole, delete: () => this.giveBack(texture, whole) };
    };
    return kernelOf(run, () => {
      if (program) gl.deleteProgram(program);
    });
  }
}

/** Makes a flat value of one element a texel of rows by fours. */
export const unpackFours = (count: number): Pass => ({ source: "", functions: [], args: [], count, glsl: unpackShader });

const unpackShader = `${shaderHead(["a"])}
void main() { data0 = vec4(own_a(), 0.0, 0.0, 0.0); }`;
