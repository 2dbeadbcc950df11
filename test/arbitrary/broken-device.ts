/** Devices with a bug that is easily made: what the laws about devices have to catch. */
import type { Device } from "../../src/devices/device.ts";
import type { Geometry, Instruction, LoopProgram, SlotGeometry } from "../../src/devices/loop-program.ts";
import type { CallGeometry } from "../../src/graph/primitive.ts";

/** What is changed on its way to a device that is right. */
export interface Bug {
  readonly loop?: (geometry: Geometry) => Geometry;
  readonly call?: (geometry: CallGeometry) => CallGeometry;
  readonly program?: (program: LoopProgram) => LoopProgram;
}

export function broken(device: Device, { loop, call, program }: Bug): Device {
  const changed: Pick<Device, "bind" | "compile"> = {
    bind(executable, geometry, bindings, label) {
      const wrong = "slots" in geometry ? (loop?.(geometry) ?? geometry) : (call?.(geometry) ?? geometry);
      return device.bind(executable, wrong, bindings, label);
    },
    compile: (right) => device.compile(program?.(right) ?? right),
  };
  return Object.assign(Object.create(device) as Device, changed);
}

const slots =
  (change: (slot: SlotGeometry) => SlotGeometry) =>
  (geometry: Geometry): Geometry => ({ ...geometry, slots: geometry.slots.map(change) });

/** The program with some of its instructions replaced; the key tells it from the right one. */
const instructions =
  (name: string, change: (instruction: Instruction) => Instruction) =>
  (program: LoopProgram): LoopProgram => ({
    ...program,
    instructions: program.instructions.map(change),
    key: `${name} ${program.key}`,
  });

export const bugs = {
  "the place where a view begins is forgotten": { loop: slots((slot) => ({ ...slot, offset: 0 })) },
  "padding shows what lies there": {
    loop: slots((slot) => ({
      ...slot,
      valid: slot.valid.map(() => [Number.NEGATIVE_INFINITY, Number.POSITIVE_INFINITY] as const),
    })),
  },
  "what is left over after the last whole vector is not computed": {
    loop: (geometry) => ({ ...geometry, inner: geometry.inner > 4 ? geometry.inner - (geometry.inner % 4) : geometry.inner }),
  },
  "rows of a square factor are taken for columns": {
    call: (geometry) => ({
      ...geometry,
      operands: geometry.operands.map((operand) => {
        const [rows, columns] = operand.strides.slice(-2) as [number, number];
        const [height, width] = operand.shape.slice(-2);
        return height === width ? { ...operand, strides: [...operand.strides.slice(0, -2), columns, rows] } : operand;
      }),
    }),
  },
  "eˣ has 16 bits": {
    program: instructions("rough", (i) =>
      i.kind === "apply" && i.op.name === "exp"
        ? { ...i, op: { ...i.op, js: ([x]: readonly string[]) => `(Math.exp(${x}) * (1 + 2 ** -16))` } }
        : i,
    ),
  },
} satisfies Record<string, Bug>;
