import { afterAll, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { FrameBatch } from "../../plugins/types.ts";
import { findFfmpeg } from "./ffmpeg.ts";
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

/** Size of the file, and decibels between what it decodes to and the frames: as found here, which `writeVideo` must say too. */
async function written(name: string, frames: FrameBatch, minPsnr?: number): Promise<{ bytes: number; psnr: number }> {
  const path = join(scratch, name);
  const how = { fps: 8, ...(minPsnr === undefined ? {} : { minPsnr }), metadata: { name } };
  const said = await media.writeVideo(path, [frames], how);
  expect(await media.readMetadata(path)).toEqual({ name });
  const view = { width: WIDTH, height: HEIGHT, fit: "stretch", rate: "native", format: "rgb24", batch: COUNT } as const;
  let [squares, at] = [0, 0];
  for await (const { data } of media.frames(path, view))
    for (const value of data) squares += (value - (frames.data[at++] as number)) ** 2;
  expect(at).toBe(frames.data.length);
  const psnr = 10 * Math.log10(255 ** 2 / (squares / at));
  if (minPsnr === undefined) expect(said).toEqual({});
  // the filters here round another way to RGB, by up to half a level a channel
  else expect(Math.abs(255 ** 2 / 10 ** ((said.psnr as number) / 10) - squares / at)).toBeLessThan(0.25);
  return { bytes: statSync(path).size, psnr };
}

test("a file is as large as its frames need, and no larger", async () => {
  const plain = await written("easy.mp4", smooth);
  expect(await written("held.mp4", smooth, 40)).toEqual(plain);
  expect(plain.psnr).toBeGreaterThan(40);
  expect((await written("lossy.mp4", noise)).psnr).toBeLessThan(25);
  expect((await written("noise.mp4", noise, 40)).psnr).toBeGreaterThan(40);
  // 8 bits a channel in YCbCr hold no colour noise at 60: the most there is (44), and it says so
  const most = await written("most.mp4", noise, 60);
  expect(most.psnr).toBeGreaterThan(43);
  expect(most.psnr).toBeLessThan(60);
  expect(readdirSync(scratch).filter((name) => name.endsWith(".tmp"))).toEqual([]);
}, 60_000);

/** Frames by twos; `half` is waited for between them. */
async function* chunks(frames: FrameBatch, half: () => Promise<void>): AsyncGenerator<FrameBatch> {
  const size = frames.width * frames.height * 3;
  for (let f = 0; f < frames.count; f += 2) {
    const count = Math.min(2, frames.count - f);
    yield { ...frames, count, data: frames.data.subarray(f * size, (f + count) * size), times: [] };
    if (f === 4) await half();
  }
}

test("frames are encoded as they come and once, compared once, and anew only where that is not enough", async () => {
  const [watched, calls] = [join(scratch, "ffmpeg"), join(scratch, "calls")];
  writeFileSync(watched, `#!/bin/sh\nprintf '%s\\n' "$*" >> '${calls}'\nexec '${findFfmpeg()}' "$@"\n`);
  chmodSync(watched, 0o755);
  const each = createMedia({ config: { ffmpeg: watched } });
  const seen = (): string[] =>
    readFileSync(calls, "utf8")
      .trim()
      .split("\n")
      .map((line) => /yuv4\d\dp(?=.* -c:v)|psnr/.exec(line)?.[0] ?? line);
  const write = async (frames: FrameBatch): Promise<string[]> => {
    writeFileSync(calls, "");
    let early: string[] = [];
    await each.writeVideo(
      join(scratch, "watched.mp4"),
      chunks(frames, async () => {
        while (statSync(calls).size === 0) await Bun.sleep(5);
        early = seen();
      }),
      { fps: 8, minPsnr: 40 },
    );
    expect(early).toEqual(["yuv420p"]);
    return seen();
  };
  expect(await write(smooth)).toEqual(["yuv420p", "psnr"]);
  expect((await write(noise)).slice(0, 3)).toEqual(["yuv420p", "psnr", "yuv444p"]);
}, 60_000);
