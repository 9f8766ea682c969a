/**
 * frames [N 32 32 3] -> vector [111]: 63 low DCT frequencies of brightness and a 4 x 4 grid of mean colours, each part
 * averaged over the frames and scaled to a fixed share, the whole of length 1. Frames alike in layout and colour have a
 * cosine near 1 whatever their size, codec or brightness.
 */
import { WaverError } from "../errors.ts";
import type { FrameBatch } from "../types.ts";

const SIDE = 32;
const LOW = 8;
const GRID = 4;
/** Structure tells scenes apart better than colour does, so it has the larger share. */
const STRUCTURE = Math.sqrt(0.7);
const COLOUR = Math.sqrt(0.3);
/** Lengths below these are noise (one grey level over the whole frame) and are not blown up to a full share. */
const FLAT_STRUCTURE = 0.05;
const FLAT_COLOUR = 0.05;

/** DCT-II basis of the low frequencies: [LOW SIDE], orthonormal. */
const BASIS = Float64Array.from({ length: LOW * SIDE }, (_, i) => {
  const k = Math.floor(i / SIDE);
  return Math.sqrt((k === 0 ? 1 : 2) / SIDE) * Math.cos((Math.PI * k * (2 * (i % SIDE) + 1)) / (2 * SIDE));
});

export async function thumbprint(frames: AsyncIterable<FrameBatch>): Promise<Float32Array<ArrayBuffer>> {
  const structure = new Float64Array(LOW * LOW);
  const colour = new Float64Array(GRID * GRID * 3);
  let count = 0;
  for await (const batch of frames) {
    if (batch.width !== SIDE || batch.height !== SIDE || batch.format !== "rgb24") {
      throw new WaverError(
        "shape_mismatch",
        `a thumbprint is taken of ${SIDE} x ${SIDE} rgb24 frames, not ${batch.width} x ${batch.height} ${batch.format}`,
      );
    }
    const size = SIDE * SIDE * 3;
    for (let i = 0; i < batch.count; i++) add(batch.data.subarray(i * size, (i + 1) * size), structure, colour);
    count += batch.count;
  }
  if (count === 0) throw new WaverError("media_too_short", "a clip without frames has no features");
  // The mean brightness (frequency 0) would make all pictures alike.
  const parts = [
    scaled(
      structure.subarray(1).map((value) => value / count),
      STRUCTURE,
      FLAT_STRUCTURE,
    ),
    scaled(
      colour.map((value) => value / count),
      COLOUR,
      FLAT_COLOUR,
    ),
  ];
  return Float32Array.from(scaled(Float64Array.from(parts.flatMap((part) => [...part])), 1, 1e-9));
}

function add(rgb: Uint8Array, structure: Float64Array, colour: Float64Array): void {
  const luma = new Float64Array(SIDE * SIDE);
  const cell = SIDE / GRID;
  const share = 1 / (255 * cell * cell);
  for (let y = 0, i = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++, i++) {
      const [r, g, b] = [rgb[i * 3] as number, rgb[i * 3 + 1] as number, rgb[i * 3 + 2] as number];
      // BT.601 weights, as JPEG and pHash take brightness.
      const grey = (0.299 * r + 0.587 * g + 0.114 * b) / 255;
      luma[i] = grey;
      const at = (Math.floor(y / cell) * GRID + Math.floor(x / cell)) * 3;
      // Colour without brightness: a darker copy keeps its print.
      colour[at]! += r * share - grey / (cell * cell);
      colour[at + 1]! += g * share - grey / (cell * cell);
      colour[at + 2]! += b * share - grey / (cell * cell);
    }
  }
  const rows = new Float64Array(SIDE * LOW);
  for (let y = 0; y < SIDE; y++)
    for (let k = 0; k < LOW; k++) {
      let sum = 0;
      for (let x = 0; x < SIDE; x++) sum += (luma[y * SIDE + x] as number) * (BASIS[k * SIDE + x] as number);
      rows[y * LOW + k] = sum;
    }
  for (let j = 0; j < LOW; j++)
    for (let k = 0; k < LOW; k++) {
      let sum = 0;
      for (let y = 0; y < SIDE; y++) sum += (rows[y * LOW + k] as number) * (BASIS[j * SIDE + y] as number);
      structure[j * LOW + k]! += sum / SIDE;
    }
}

/** The vector at the length `share`, or shorter when it is hardly longer than noise. */
function scaled(values: Float64Array, share: number, floor: number): Float64Array {
  const length = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0));
  return values.map((value) => (value * share) / Math.max(length, floor));
}
