/** Files that want more than to be decoded (reliability.md M2, M3): other files, the network, the disk, all memory. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { WaverError } from "../../plugins/errors.ts";
import type { FrameView } from "../../plugins/types.ts";
import { ffmpeg, makeClip } from "../../test/support/clips.ts";
import { spawnChild } from "./child.ts";
import { findFfmpeg, limitsOf } from "./ffmpeg.ts";
import { createMedia } from "./index.ts";
import { sandbox } from "./sandbox.ts";

const media = createMedia({ config: { stallSeconds: 20 } });
const view: FrameView = { width: 32, height: 32, fit: "stretch", rate: 4, format: "gray8", batch: 4 };
let folder: string;
let hits = 0;
let canary: Bun.Server<undefined>;
let secret: string;

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "waver-hostile-"));
  secret = await makeClip(join(folder, "secret.mp4"), [{ source: "testsrc2=s=64x48:r=8", seconds: 1 }], { fps: 8 });
  await ffmpeg("-i", secret, "-c", "copy", join(folder, "secret.ts"));
  canary = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: () => {
      hits += 1;
      return new Response(Bun.file(join(folder, "secret.ts")));
    },
  });
});
afterAll(async () => {
  await canary.stop(true);
  rmSync(folder, { recursive: true, force: true });
});

async function codeOf(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (error instanceof WaverError) return error.code;
    throw error;
  }
  return "none";
}

const drained = async (path: string): Promise<void> => {
  for await (const _ of media.frames(path, view));
};

/** Playlists and scripts that name something else, by what they name. */
const TRICKS: Readonly<Record<string, (target: string) => string>> = {
  hls: (target) => `#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n${target}\n#EXT-X-ENDLIST\n`,
  key: (target) =>
    `#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXT-X-KEY:METHOD=AES-128,URI="${target}"\n#EXTINF:5,\n${target}\n#EXT-X-ENDLIST\n`,
  map: (target) => `#EXTM3U\n#EXT-X-MAP:URI="${target}"\n#EXTINF:5,\n${target}\n#EXT-X-ENDLIST\n`,
  master: (target) => `#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n${target}\n`,
  concat: (target) => `ffconcat version 1.0\nfile '${target}'\n`,
  bare: (target) => `file '${target}'\n`,
  dash: (target) =>
    `<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT5S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>${target}</BaseURL><SegmentList><SegmentURL media="${target}"/></SegmentList></Representation></AdaptationSet></Period></MPD>`,
  sdp: () =>
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 40000 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
  asx: (target) => `<asx version="3.0"><entry><ref href="${target}"/></entry></asx>`,
  reference: (target) => `[Reference]\nRef1=${target}\n`,
};
const NAMES = ["mp4", "mkv", "m3u8", "txt", "ts"];

describe("a file that names another", () => {
  for (const [kind, textOf] of Object.entries(TRICKS))
    test(`as ${kind} under ${NAMES.length} names is no video and fetches nothing`, async () => {
      const targets = [
        secret,
        "secret.ts",
        `file:${secret}`,
        `http://127.0.0.1:${canary.port}/x.ts`,
        `concat:${join(folder, "secret.ts")}|${secret}`,
        `subfile,,start,0,end,100000,,:${secret}`,
        `data:text/plain,${secret}`,
        `crypto+file:${secret}`,
      ];
      for (const [i, target] of targets.entries()) {
        const path = join(folder, `trick-${kind}.${NAMES[i % NAMES.length]}`);
        writeFileSync(path, textOf(target));
        expect([target, await codeOf(media.probe(path))]).toEqual([target, "media_unreadable"]);
        expect(await codeOf(drained(path))).toBe("media_unreadable");
      }
      expect(hits).toBe(0);
    });

  test("by its name is only a name", async () => {
    const names = [
      "http://127.0.0.1/x",
      `http:127.0.0.1:${canary.port}`,
      "concat:a|b",
      "tee:a",
      "unix:x",
      "pipe:0",
      "-i",
      "%03d.mp4",
    ];
    for (const name of names)
      expect([name, await codeOf(media.probe(join(folder, name)))]).toEqual([name, "media_missing"]);
    for (const name of ["-y", "pipe:0", "shot%03d.mp4", "*.mp4"]) {
      await Bun.write(join(folder, name), Bun.file(secret));
      expect((await media.probe(join(folder, name))).numFrames).toBe(8);
      rmSync(join(folder, name));
    }
    expect(hits).toBe(0);
  });
});

describe("a bomb", () => {
  const gif = (width: number, height: number): Uint8Array =>
    Buffer.concat([
      Buffer.from("GIF89a"),
      Buffer.from(new Uint16Array([width, height]).buffer),
      Buffer.from([0, 0, 0, 0x2c, 0, 0, 0, 0]),
      Buffer.from(new Uint16Array([width, height]).buffer),
      Buffer.from([0, 2, 1, 0x4c, 0, 0x3b]),
    ]);
  const bombs: Readonly<Record<string, string | Uint8Array>> = {
    "a picture of 100000 x 100000": "YUV4MPEG2 W100000 H100000 F25:1 Ip C420\nFRAME\n",
    "a picture of 30000 x 30000": "YUV4MPEG2 W30000 H30000 F25:1 Ip C420\nFRAME\n",
    "a gif of 65535 x 65535": gif(65_535, 65_535),
    "a frame in 100000 s": `YUV4MPEG2 W2 H2 F1:100000 Ip C420\n${"FRAME\n000000".repeat(3)}`,
    "negative sizes": "YUV4MPEG2 W-2 H-2 F25:1 Ip C420\nFRAME\n000000",
    "a box that claims 2^62 bytes": Buffer.concat([
      Buffer.from([0, 0, 0, 1]),
      Buffer.from("ftyp"),
      Buffer.from([0x40, 0, 0, 0, 0, 0, 0, 0]),
    ]),
    "boxes in boxes": Buffer.concat(
      Array.from({ length: 20_000 }, () => Buffer.from([0, 0, 0, 8, 0x6d, 0x6f, 0x6f, 0x76])),
    ),
  };
  for (const [what, content] of Object.entries(bombs))
    test(`${what} is refused before it is decoded`, async () => {
      const path = join(folder, "bomb.mp4");
      writeFileSync(path, content);
      const began = performance.now();
      expect(await codeOf(media.probe(path))).toMatch(/^media_(too_large|unreadable)$/);
      expect(await codeOf(drained(path))).toMatch(/^media_(too_large|unreadable)$/);
      console.log(`${what}: ${((performance.now() - began) / 1000).toFixed(1)} s`);
    });

  test("as a still image is refused by its header", async () => {
    const path = join(folder, "bomb.gif");
    writeFileSync(path, gif(65_535, 65_535));
    expect(await codeOf(media.image(path))).toMatch(/^media_(too_large|unreadable)$/);
  });

  test("a codec that nobody needs is not opened", async () => {
    const path = join(folder, "old.avi");
    await ffmpeg(
      "-f",
      "lavfi",
      "-t",
      "1",
      "-i",
      "testsrc2=s=64x48:r=8",
      "-c:v",
      "msvideo1",
      "-pix_fmt",
      "rgb555le",
      path,
    );
    expect(await codeOf(drained(path))).toBe("media_unreadable");
  });

  test("sound and subtitles beside the picture are no hindrance", async () => {
    const words = join(folder, "words.srt");
    writeFileSync(words, "1\n00:00:00,000 --> 00:00:01,000\nhello\n");
    const path = join(folder, "whole.mkv");
    await ffmpeg(
      "-i",
      secret,
      "-f",
      "lavfi",
      "-t",
      "1",
      "-i",
      "sine",
      "-i",
      words,
      "-c:v",
      "copy",
      "-c:a",
      "aac",
      "-c:s",
      "srt",
      path,
    );
    expect((await media.probe(path)).numFrames).toBe(8);
    await drained(path);
  });
});

describe("a child that is not ffmpeg any more", () => {
  const limits = limitsOf({});
  const attempt = async (args: string[]): Promise<number> => {
    await using child = spawnChild(findFfmpeg(), ["-v", "error", "-nostdin", "-y", ...args], {
      limits,
      cpuSeconds: 10,
      pipes: 1,
    });
    await child.drain(0);
    return (await child.finished()).code;
  };

  test("cannot write a file", async () => {
    const path = join(folder, "written.yuv");
    expect(
      await attempt(["-f", "lavfi", "-i", "testsrc2=s=64x48:r=8", "-frames:v", "4", "-f", "rawvideo", path]),
    ).not.toBe(0);
    expect(existsSync(path) ? statSync(path).size : 0).toBe(0);
  });

  test.skipIf(!sandbox().network)(
    "reaches no network, not even this machine's (the kernel must allow namespaces)",
    async () => {
      const url = `http://127.0.0.1:${canary.port}/x.ts`;
      expect(await attempt(["-i", url, "-f", "null", "-"])).not.toBe(0);
      expect(hits).toBe(0);
    },
  );
});
