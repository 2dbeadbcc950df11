/**
 * Shaders of ours on the WebGL context of GPU.js. GPU.js sets what it needs of the context before each of its runs, but for the viewport and
 * the attributes of vertices, which are left as they were. Here is what WebGL 1 and WebGL 2 do alike.
 */
import type { GpuKernel } from "./backend.ts";
import { type Held, ourShader } from "./gl-shader.ts";
import type { GlKernel, GlTexture } from "./gpujs-internals.ts";
import type { Pass } from "./plan.ts";
import { Spare } from "./spare.ts";

/** Width and height of a texture. */
export type Size = readonly [width: number, height: number];

/** What a shader may read: with `columns`, rows by fours. */
interface Readable {
  readonly texture: WebGLTexture;
  readonly size: ArrayLike<number>;
  readonly columns?: number | undefined;
}

/** The texture in which GPU.js keeps so many floats: the kernels that read it are compiled for its size. */
export function flatSize(count: number): [width: number, height: number] {
  const root = Math.sqrt(count);
  let [low, high] = [Math.floor(root), Math.ceil(root)];
  while (high * low < count) low = Math.ceil(count / --high);
  return [low, Math.ceil(count / low)];
}

function shaderOf(gl: WebGLRenderingContext, type: number, code: string): WebGLShader {
  const shader = gl.createShader(type)!;
  gl.shaderSource(shader, code);
  gl.compileShader(shader);
  if (!gl.getShaderParameter(shader, gl.COMPILE_STATUS) && !gl.isContextLost())
    throw new Error(`gpu: a shader does not compile: ${gl.getShaderInfoLog(shader)}\n${code}`);
  return shader;
}

/** The fragment shader with its arrays in texture units of their own, and with `corner` at a place for attributes if one is given. */
function programOf(gl: WebGLRenderingContext, vertex: WebGLShader, code: string, corner?: number): WebGLProgram {
  const program = gl.createProgram()!;
  const fragment = shaderOf(gl, gl.FRAGMENT_SHADER, code);
  for (const shader of [vertex, fragment]) gl.attachShader(program, shader);
  if (corner !== undefined) gl.bindAttribLocation(program, corner, "corner");
  gl.linkProgram(program);
  gl.deleteShader(fragment);
  gl.useProgram(program);
  namesOf(code).forEach((name, unit) => {
    gl.uniform1i(gl.getUniformLocation(program, `user_${name}`), unit);
  });
  return program;
}

/**
 * A texture as GPU.js's handle of a flat value.
 *
 * @param like     one that GPU.js has made
 * @param giveBack when nobody holds it any more
 */
function flatLike(
  like: GlTexture,
  texture: WebGLTexture,
  size: readonly [number, number],
  count: number,
  giveBack: () => void,
): GlTexture {
  const { context, kernel, internalFormat, textureFormat } = like;
  const Flat = like.constructor as new (settings: object) => GlTexture;
  const owner = { ...kernel, deleteTexture: giveBack };
  const dimensions = [count, 1, 1];
  return new Flat({ texture, size, dimensions, output: [count], context, kernel: owner, internalFormat, textureFormat });
}

/** Textures that nobody holds any more and that are kept for whoever needs one of their size next. */
const mostSpare = { bytes: 64 * 2 ** 20, things: 4096 };

/** Runs our fragment shaders on the context of a GPU.js kernel. */
export abstract class Drawings<Read extends Readable = Readable> {
  protected readonly gl: WebGLRenderingContext;
  readonly #spare = new Spare<WebGLTexture>(mostSpare, (texture) => this.gl.deleteTexture(texture));
  /** A flat value that GPU.js has made; others are made after it. */
  readonly #flat: GlTexture;
  readonly #maxTexSize: GlKernel["maxTexSize"];
  readonly #vertex: WebGLShader;
  readonly #framebuffers = new Map<number, WebGLFramebuffer>();
  /** The place for attributes where `corner` lies, if the vertex shader has it. */
  protected readonly corner: number | undefined = undefined;

  /** @param kernel the one that made `flat` */
  constructor(flat: GlTexture, kernel: GlKernel, vertexShader: string) {
    this.#flat = flat;
    this.#maxTexSize = kernel.maxTexSize;
    this.gl = flat.context;
    this.#vertex = shaderOf(this.gl, this.gl.VERTEX_SHADER, vertexShader);
  }

  /** The kernel of a pass that is drawn; `null` where GPU.js writes the shader. */
  kernelFor(pass: Pass): GpuKernel | null {
    return pass.glsl ? this.drawn(pass) : null;
  }

  /** A pass with a shader of its own, which is compiled when it runs first: then the sizes of what it reads are known. */
  protected drawn(pass: Pass): GpuKernel {
    const { gl } = this;
    const glsl = pass.glsl!;
    const size = pass.size ?? flatSize(pass.count);
    let program: WebGLProgram | null = null;
    const run = (...reads: readonly Read[]): unknown => {
      if (program) gl.useProgram(program);
      else {
        const held = namesOf(glsl).map((name, i): [string, Held] => {
          const { size, columns } = reads[i]!;
          return [name, [size[0]!, size[1]!, columns]];
        });
        program = programOf(gl, this.#vertex, this.inVersion(ourShader(glsl, new Map(held), size)), this.corner);
      }
      const textures = this.targets(pass, size);
      reads.forEach((read, unit) => {
        gl.activeTexture(gl.TEXTURE0 + unit);
        gl.bindTexture(this.kindOf(read), read.texture);
      });
      gl.viewport(0, 0, ...size);
      gl.scissor(0, 0, ...size);
      this.drawCorners();
      const [width, height] = this.#maxTexSize;
      gl.viewport(0, 0, width, height);
      return this.results(pass, textures, size);
    };
    return kernelOf(run, () => {
      if (program) gl.deleteProgram(program);
    });
  }

  /** A shader that is written for WebGL 2, for the context. */
  protected abstract inVersion(shader: string): string;
  /** The kind of texture that is read. */
  protected abstract kindOf(read: Read): number;
  /** Textures for what a pass writes, attached. */
  protected abstract targets(pass: Pass, size: Size): readonly WebGLTexture[];
  /** Draws the triangle that covers everything. */
  protected abstract drawCorners(): void;
  /** Says to which places the bound framebuffer is drawn. */
  protected abstract drawTo(places: readonly number[]): void;
  /** Handles of what was drawn. */
  protected abstract results(pass: Pass, textures: readonly WebGLTexture[], size: Size): unknown;

  /** Binds the framebuffer that has so many places to draw to. */
  protected bindFramebuffer(places: number): void {
    const { gl } = this;
    const known = this.#framebuffers.get(places);
    const framebuffer = known ?? gl.createFramebuffer()!;
    gl.bindFramebuffer(gl.FRAMEBUFFER, framebuffer);
    if (known) return;
    this.#framebuffers.set(places, framebuffer);
    this.drawTo(Array.from({ length: places }, (_, i) => gl.COLOR_ATTACHMENT0 + i));
  }

  /** Draws to textures from now on, and reads from them. */
  protected attach(textures: readonly WebGLTexture[]): void {
    const { gl } = this;
    this.bindFramebuffer(textures.length);
    textures.forEach((texture, i) => {
      gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0 + i, gl.TEXTURE_2D, texture, 0);
    });
  }

  /**
   * A texture to write to: a new one would be filled with zeros first.
   *
   * @param sort     is the same for textures that may stand for each other
   * @param unit     to which a new one is bound
   * @param allocate gives a new one its size
   */
  protected spareOrNew(sort: string, kind: number, unit: number, allocate: () => void): WebGLTexture {
    const { gl } = this;
    const known = this.#spare.take(sort);
    if (known) return known;
    const texture = gl.createTexture()!;
    gl.activeTexture(unit);
    gl.bindTexture(kind, texture);
    for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(kind, name, gl.NEAREST);
    for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(kind, name, gl.CLAMP_TO_EDGE);
    allocate();
    return texture;
  }

  protected keep(sort: string, texture: WebGLTexture, bytes: number): void {
    this.#spare.give(sort, texture, bytes);
  }

  protected flatOf(texture: WebGLTexture, size: Size, count: number, giveBack: () => void): GlTexture {
    return flatLike(this.#flat, texture, size, count, giveBack);
  }
}

/** As one of GPU.js. */
export const kernelOf = (run: unknown, destroy: () => void): GpuKernel =>
  Object.assign(run as (...reads: unknown[]) => unknown, {
    kernel: { constructor: { mode: "gpu" }, fallbackReason: null },
    setOutput() {},
    destroy,
  }) as GpuKernel;

/** The arrays that a shader reads, in their order. */
const namesOf = (code: string): string[] =>
  [...code.matchAll(/uniform sampler2D(?:Array)? user_(\w+);/g)].map(([, name]) => name!);
