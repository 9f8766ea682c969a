import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { randomFillSync } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WaverError } from "../../plugins/errors.ts";
import type { FrameBatch, FrameView } from "../../plugins/types.ts";
import { badFiles, ffmpeg, makeClip, threeShots } from "../../test/support/clips.ts";
import { findFfmpeg, rational } from "./ffmpeg.ts";
import { createMedia } from "./index.ts";

let folder: string;
let clip: string;
const media = createMedia();
const view: FrameView = { width: 64, height: 36, fit: "stretch", rate: "native", format: "rgb24", batch: 16 };

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "waver-media-"));
  clip = await threeShots(join(folder, "three.mp4"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

async function all(frames: AsyncIterable<FrameBatch>): Promise<{ count: number; times: number[]; data: Uint8Array }> {
  const parts: Uint8Array[] = [];
  const times: number[] = [];
  for await (const batch of frames) {
    parts.push(batch.data);
    times.push(...batch.times);
  }
  return { count: times.length, times, data: Buffer.concat(parts) };
}

async function failure(work: Promise<unknown>): Promise<WaverError> {
  try {
    await work;
  } catch (error) {
    if (error instanceof WaverError) return error;
    throw error;
  }
  throw new Error("it did not fail");
}

const meanDifference = (a: Uint8Array, b: Uint8Array): number =>
  a.reduce((sum, value, i) => sum + Math.abs(value - (b[i] as number)), 0) / a.length;

describe("probe", () => {
  test("counts frames and tells size, rate and duration", async () => {
    const source = await media.probe(clip);
    expect(source).toMatchObject({ width: 192, height: 108, fps: 25, numFrames: 125, codec: "h264" });
    expect(source.duration).toBeCloseTo(5, 3);
    expect(source.bitrate).toBeGreaterThan(1000);
    expect(source.id as string).toBe(
      `sha256:${new Bun.CryptoHasher("sha256").update(new Uint8Array(await Bun.file(clip).arrayBuffer())).digest("hex")}`,
    );
  });

  test("reads rates that a container rounds, and turned video", async () => {
    const webm = join(folder, "ntsc.mkv");
    await ffmpeg(
      "-f",
      "lavfi",
      "-t",
      "2",
      "-i",
      "testsrc2=s=64x48:r=30000/1001",
      "-c:v",
      "libx264",
      "-preset",
      "ultrafast",
      "-pix_fmt",
      "yuv420p",
      webm,
    );
    expect((await media.probe(webm)).fps).toBeCloseTo(30000 / 1001, 6);
    const gif = join(folder, "small.gif");
    await ffmpeg("-f", "lavfi", "-t", "1", "-i", "testsrc2=s=64x48:r=10", gif);
    expect(await media.probe(gif)).toMatchObject({ fps: 10, numFrames: 10, codec: "gif" });
  });

  test("each bad file is one sentence with its code", async () => {
    const bad = await badFiles(folder);
    for (const [path, code] of [
      [bad.text, "media_unreadable"],
      [bad.empty, "media_empty"],
      [bad.missing, "media_missing"],
      [bad.cut, "media_unreadable"],
      [folder, "media_unreadable"],
    ] as const) {
      const error = await failure(media.probe(path));
      expect(error.code).toBe(code);
      expect(error.message).not.toContain("\n");
      expect(error.message).not.toContain(folder);
      expect(error.message).not.toMatch(/0x[0-9a-f]{4}|Invalid data/);
    }
    expect(await media.probe(bad.oneFrame)).toMatchObject({ numFrames: 1, width: 64, height: 48 });
  });

  test("a playlist renamed .mp4 reads no other file", async () => {
    const trap = join(folder, "playlist.mp4");
    await Bun.write(trap, `#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n${clip}\n#EXT-X-ENDLIST\n`);
    expect((await failure(media.probe(trap))).code).toBe("media_unreadable");
    await Bun.write(trap, `ffconcat version 1.0\nfile three.mp4\n`);
    expect((await failure(media.probe(trap))).code).toBe("media_unreadable");
  });

  test("a name that looks like an option or a protocol is a file", async () => {
    for (const name of ["-y.mp4", "concat:a|b.mp4", "http:%2f.mp4", "two\nlines.mp4"]) {
      await Bun.write(join(folder, "odd", name), Bun.file(clip));
      expect((await media.probe(join(folder, "odd", name))).numFrames).toBe(125);
    }
  });

  test("time stamps that jump by years are refused, not filled with copies", async () => {
    const path = join(folder, "gap.mkv");
    const jump = "setpts='if(gte(N,24),N/25+100000,N/25)/TB'";
    await ffmpeg(
      "-f",
      "lavfi",
      "-t",
      "1",
      "-i",
      "testsrc2=s=64x48:r=25",
      "-vf",
      jump,
      "-fps_mode",
      "passthrough",
      "-c:v",
      "mpeg4",
      path,
    );
    const error = await failure(media.probe(path));
    expect([error.code, error.message]).toEqual(["media_unreadable", expect.stringContaining("time stamps")]);
  });

  test("too many pixels are refused", async () => {
    const small = createMedia({ config: { maxPixels: 5000 } });
    expect((await failure(small.probe(clip))).code).toBe("media_too_large");
  });
});

describe("frames", () => {
  test("the native rate gives every frame once, with its time", async () => {
    const { count, times } = await all(media.frames(clip, view));
    expect(count).toBe(125);
    expect(times[40]).toBeCloseTo(1.6, 9);
  });

  test("a span is the same frames that a whole decode gives", async () => {
    const whole = await all(media.frames(clip, view));
    const size = 64 * 36 * 3;
    for (const [from, to] of [
      [0, 5],
      [40, 90],
      [33, 34],
      [90, 125],
    ] as const) {
      const part = await all(media.frames(clip, view, { start: from / 25, end: to / 25 }));
      expect(part.count).toBe(to - from);
      expect(meanDifference(part.data, whole.data.subarray(from * size, to * size))).toBe(0);
    }
  });

  test("an NTSC rate is cut on the exact frame too", async () => {
    const path = join(folder, "ntsc.mp4");
    await ffmpeg(
      "-f",
      "lavfi",
      "-t",
      "3",
      "-i",
      "testsrc2=s=64x48:r=30000/1001",
      "-c:v",
      "libx264",
      "-preset",
      "ultrafast",
      "-g",
      "12",
      "-pix_fmt",
      "yuv420p",
      path,
    );
    const fps = 30000 / 1001;
    const whole = await all(media.frames(path, view));
    const size = 64 * 36 * 3;
    for (const from of [1, 7, 31, 59]) {
      const part = await all(media.frames(path, view, { start: from / fps, end: (from + 9) / fps }));
      expect(part.count).toBe(9);
      expect(meanDifference(part.data, whole.data.subarray(from * size, (from + 9) * size))).toBe(0);
    }
  });

  test("several views come from one decode", async () => {
    const views = media.fanOut(
      clip,
      { colour: view, grey: { ...view, width: 32, height: 32, fit: "cover", rate: 8, format: "gray8" } },
      { start: 1, end: 3 },
    );
    const [colour, grey] = await Promise.all([
      all(views["colour"] as AsyncIterable<FrameBatch>),
      all(views["grey"] as AsyncIterable<FrameBatch>),
    ]);
    expect(colour.count).toBe(50);
    expect(grey.count).toBe(16);
    expect(grey.data.length).toBe(16 * 32 * 32);
    expect(grey.times[1]).toBeCloseTo(1.125, 9);
  });

  test("a view that is left or never read holds nothing up", async () => {
    const views = media.fanOut(clip, { a: view, b: { ...view, width: 640, height: 360 }, c: view });
    const left = (async () => {
      for await (const _ of views["a"] as AsyncIterable<FrameBatch>) break;
    })();
    const skipped = (views["b"] as AsyncIterable<FrameBatch>)[Symbol.asyncIterator]().return?.();
    expect((await all(views["c"] as AsyncIterable<FrameBatch>)).count).toBe(125);
    await Promise.all([left, skipped]);
  });

  test("abort ends the child and is `cancelled`", async () => {
    const abort = new AbortController();
    const long = await makeClip(join(folder, "long.mp4"), [{ source: "mandelbrot=s=160x90:r=25", seconds: 20 }]);
    const work = (async () => {
      for await (const _ of media.frames(
        long,
        { ...view, width: 640, height: 360, batch: 1 },
        { signal: abort.signal },
      ))
        abort.abort();
    })();
    expect((await failure(work)).code).toBe("cancelled");
  });

  test("a span behind the end says so", async () => {
    expect((await failure(all(media.frames(clip, view, { start: 60, end: 61 })))).code).toBe("media_too_short");
  });

  test("no file descriptor stays open", async () => {
    const open = () => readdirSync("/proc/self/fd").length;
    await all(media.frames(clip, view));
    await Bun.sleep(50);
    const before = open();
    for (let i = 0; i < 8; i++) {
      const views = media.fanOut(clip, { a: view, b: view });
      await Promise.all([all(views["a"] as AsyncIterable<FrameBatch>), all(views["b"] as AsyncIterable<FrameBatch>)]);
      for await (const _ of media.frames(clip, view)) break;
    }
    await Bun.sleep(200);
    expect(open()).toBeLessThanOrEqual(before + 2);
  });
});

describe("writeVideo", () => {
  const gradient = (count: number, width: number, height: number): FrameBatch => {
    const data = new Uint8Array(count * width * height * 3);
    for (let f = 0, i = 0; f < count; f++)
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++, i += 3) {
          data[i] = (x * 255) / width;
          data[i + 1] = (y * 255) / height;
          data[i + 2] = 40 + f * 10;
        }
    return { data, count, width, height, format: "rgb24", times: Array.from({ length: count }, (_, i) => i / 8) };
  };

  test("frames and recipe come back", async () => {
    const path = join(folder, "made.mp4");
    const batch = gradient(17, 64, 48);
    const metadata = { prompt: 'a; b=#\\ "x"\n下一行', seed: 7 };
    await media.writeVideo(path, [batch], { fps: 8, metadata });
    expect(await media.probe(path)).toMatchObject({ width: 64, height: 48, fps: 8, numFrames: 17, codec: "h264" });
    expect(await media.readMetadata(path)).toEqual(metadata);
    const back = await all(media.frames(path, { ...view, width: 64, height: 48 }));
    // 4:2:0 and crf 18 on a smooth picture: measured 1.0 grey levels.
    expect(meanDifference(back.data, batch.data)).toBeLessThan(2);
    // faststart: the index comes before the samples, so a browser can begin at once.
    const head = Buffer.from(await Bun.file(path).arrayBuffer());
    expect(head.indexOf("moov")).toBeLessThan(head.indexOf("mdat"));
  });

  test("odd sides are made even", async () => {
    const path = join(folder, "odd.mp4");
    await media.writeVideo(path, [gradient(5, 63, 47)], { fps: 8 });
    expect(await media.probe(path)).toMatchObject({ width: 64, height: 48, numFrames: 5 });
    expect(await media.readMetadata(path)).toBeNull();
  });

  test("equal frames give equal bytes", async () => {
    const [a, b] = [join(folder, "a.mp4"), join(folder, "b.mp4")];
    for (const path of [a, b]) await media.writeVideo(path, [gradient(9, 64, 48)], { fps: 8, metadata: { seed: 1 } });
    expect((await media.probe(a)).id).toBe((await media.probe(b)).id);
  });

  test("a failing source or an abort leaves no file", async () => {
    const target = join(folder, "quiet");
    mkdirSync(target);
    async function* broken() {
      yield gradient(4, 64, 48);
      throw new WaverError("numeric_invalid", "not a number");
    }
    expect((await failure(media.writeVideo(join(target, "x.mp4"), broken(), { fps: 8 }))).code).toBe("numeric_invalid");
    const abort = new AbortController();
    async function* endless() {
      for (;;) {
        yield gradient(4, 64, 48);
        abort.abort();
      }
    }
    expect(
      (await failure(media.writeVideo(join(target, "x.mp4"), endless(), { fps: 8, signal: abort.signal }))).code,
    ).toBe("cancelled");
    expect((await failure(media.writeVideo(join(target, "x.mp4"), [], { fps: 8 }))).code).toBe("invalid_input");
    expect((await failure(media.writeVideo(join(target, "none", "x.mp4"), [gradient(1, 8, 8)], { fps: 8 }))).code).toBe(
      "not_found",
    );
    expect(readdirSync(target)).toEqual([]);
  });

  test("a full disk is disk_full and leaves no file", async () => {
    const small = join(folder, "small");
    mkdirSync(small);
    const mounted =
      process.platform === "linux" &&
      Bun.spawnSync(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small]).exitCode === 0;
    if (!mounted) {
      console.log("skipped: a small file system can be mounted by root only");
      return;
    }
    try {
      const noise = (): FrameBatch => ({
        ...gradient(16, 256, 256),
        data: randomFillSync(new Uint8Array(16 * 256 * 256 * 3)),
      });
      expect((await failure(media.writeVideo(join(small, "x.mp4"), [noise(), noise()], { fps: 8, crf: 1 }))).code).toBe(
        "disk_full",
      );
      expect(readdirSync(small)).toEqual([]);
    } finally {
      Bun.spawnSync(["umount", small]);
    }
  });
});

describe("image", () => {
  test("covers the asked size and shows transparency as white", async () => {
    const path = join(folder, "clear.png");
    const { default: sharp } = await import("sharp");
    await sharp({ create: { width: 40, height: 20, channels: 4, background: { r: 0, g: 0, b: 0, alpha: 0 } } })
      .png()
      .toFile(path);
    const whole = await media.image(path);
    expect([whole.width, whole.height, whole.count]).toEqual([40, 20, 1]);
    expect(whole.data.every((value) => value === 255)).toBe(true);
    expect((await media.image(path, { width: 16, height: 16 })).data.length).toBe(16 * 16 * 3);
  });

  test("a text file and a drawing that could read files are refused", async () => {
    const bad = await badFiles(folder);
    expect((await failure(media.image(bad.text))).code).toBe("media_unreadable");
    const svg = join(folder, "x.svg");
    await Bun.write(svg, `<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"/>`);
    expect((await failure(media.image(svg))).code).toBe("unsupported_media_type");
  });
});

describe("ffmpeg", () => {
  test("a wrong WAVER_FFMPEG and none at all are named with a cure", () => {
    const attempt = (env: Record<string, string>): WaverError => {
      try {
        findFfmpeg({}, env);
      } catch (error) {
        return error as WaverError;
      }
      throw new Error("found");
    };
    const wrong = attempt({ WAVER_FFMPEG: clip });
    expect([wrong.code, wrong.hint !== undefined]).toEqual(["tool_missing", true]);
    expect(attempt({ PATH: folder, WAVER_CACHE: folder }).hint).toContain("WAVER_FFMPEG");
  });

  test("rates become the fractions that cameras mean", () => {
    expect([rational(25), rational(29.97), rational(23.976), rational(12.5)]).toEqual([
      "25/1",
      "30000/1001",
      "24000/1001",
      "12500000/1000000",
    ]);
  });
});
