import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { FrameBatch } from "../../plugins/types.ts";
import { createMedia } from "./index.ts";

const [WIDTH, HEIGHT, COUNT] = [48, 32, 9];
const media = createMedia();
const scratch = mkdtempSync(join(tmpdir(), "fidelity-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

const clip = (paint: (t: number, y: number, x: number, c: number) => number): FrameBatch => {
  const data = new Uint8Array(COUNT * HEIGHT * WIDTH * 3);
  let at = 0;
  for (let t = 0; t < COUNT; t++)
    for (let y = 0; y < HEIGHT; y++)
      for (let x = 0; x < WIDTH; x++) for (let c = 0; c < 3; c++) data[at++] = paint(t, y, x, c);
  return {
    data,
    ...{ count: COUNT, width: WIDTH, height: HEIGHT, format: "rgb24" },
    times: Array.from({ length: COUNT }, (_, i) => i / 8),
  };
};
const smooth = clip((t, y, x) => Math.round(40 + 3 * x + 2 * y + 2 * t));
/** Every pixel of another colour: what 4:2:0 cannot hold. */
const noise = clip((t, y, x, c) => ((t * 7919 + y * 104_729 + x * 1_299_709 + c * 15_485_863) * 2_654_435_761) % 256);

/** Size of the file, and decibels between what it decodes to and the frames. */
async function written(name: string, frames: FrameBatch, minPsnr?: number): Promise<{ bytes: number; psnr: number }> {
  const path = join(scratch, name);
  await media.writeVideo(path, [frames], { fps: 8, ...(minPsnr === undefined ? {} : { minPsnr }), metadata: { name } });
  expect(await media.readMetadata(path)).toEqual({ name });
  const view = { width: WIDTH, height: HEIGHT, fit: "stretch", rate: "native", format: "rgb24", batch: COUNT } as const;
  let [squares, at] = [0, 0];
  for await (const { data } of media.frames(path, view))
    for (const value of data) squares += (value - (frames.data[at++] as number)) ** 2;
  expect(at).toBe(frames.data.length);
  return { bytes: statSync(path).size, psnr: 10 * Math.log10(255 ** 2 / (squares / at)) };
}

test("a file is as large as its frames need, and no larger", async () => {
  const plain = await written("easy.mp4", smooth);
  expect(await written("held.mp4", smooth, 40)).toEqual(plain);
  expect(plain.psnr).toBeGreaterThan(40);
  expect((await written("lossy.mp4", noise)).psnr).toBeLessThan(25);
  expect((await written("noise.mp4", noise, 40)).psnr).toBeGreaterThan(40);
  expect(readdirSync(scratch).filter((name) => name.endsWith(".tmp"))).toEqual([]);
}, 60_000);
