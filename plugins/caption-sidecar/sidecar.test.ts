import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { WaverError } from "../errors.ts";
import type { Clip, Digest, Source } from "../types.ts";
import { wordsOf } from "./filename.ts";
import { parseCaptions } from "./parse.ts";
import { Sidecars } from "./sidecar.ts";

let folder: string;
const id = `sha256:${"a".repeat(64)}` as Digest;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "waver-captions-"));
  mkdirSync(join(folder, "b"));
  mkdirSync(join(folder, "c"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const source = (path: string): Source => ({
  id,
  path: join(folder, path),
  tag: "t",
  width: 64,
  height: 64,
  fps: 25,
  numFrames: 250,
  duration: 10,
  bitrate: 1,
  codec: "h264",
});
const clip = (start: number, end: number): Clip => ({ id, source: id, start, end });
const write = (name: string, text: string): string => {
  writeFileSync(join(folder, name), text);
  return join(folder, name);
};

async function caption(
  path: string,
  start: number,
  end: number,
  captions?: string,
  minOverlap = 0.5,
): Promise<string | null> {
  return (await new Sidecars().captionOf(clip(start, end), source(path), { captions, minOverlap }))?.text ?? null;
}

describe("sidecar captions", () => {
  test("CSV, JSON, JSONL and an object by file say the same", async () => {
    const files = [
      write(
        "1.csv",
        '\uFEFFfile,start,end,caption\r\nshots.mp4,0,3,"a dog, brown\nand ""fast"""\r\nshots.mp4,3,10,a cat\r\n',
      ),
      write(
        "1.json",
        JSON.stringify([
          { file: "shots.mp4", start: 0, end: 3, caption: 'a dog, brown\nand "fast"' },
          { file: "shots.mp4", start: 3, end: 10, caption: "a cat" },
        ]),
      ),
      write(
        "1.jsonl",
        `{"file":"shots.mp4","start":0,"end":3,"caption":"a dog, brown\\nand \\"fast\\""}\n\n{"file":"shots.mp4","start":3,"caption":"a cat"}\n`,
      ),
      write(
        "2.json",
        JSON.stringify({
          "shots.mp4": [
            { start: 0, end: 3, caption: 'a dog, brown\nand "fast"' },
            { start: 3, end: 10, caption: "a cat" },
          ],
        }),
      ),
    ];
    for (const file of files) {
      expect(await caption("shots.mp4", 0.2, 2.8, file)).toBe('a dog, brown\nand "fast"');
      expect(await caption("shots.mp4", 4, 6, file)).toBe("a cat");
    }
  });

  test("the best overlap wins, then the narrower range; too little is none", async () => {
    const file = write(
      "ranges.json",
      JSON.stringify([
        { file: "o.mp4", caption: "everything" },
        { file: "o.mp4", start: 2, end: 4, caption: "two to four" },
        { file: "o.mp4", start: 3.9, end: 8, caption: "four to eight" },
      ]),
    );
    expect(await caption("o.mp4", 2, 4, file)).toBe("two to four");
    expect(await caption("o.mp4", 3, 6, file)).toBe("everything");
    const ranges = write("parts.json", JSON.stringify([{ file: "o.mp4", start: 2, end: 4, caption: "x" }]));
    expect(await caption("o.mp4", 3, 6, ranges)).toBeNull();
    expect(await caption("o.mp4", 3, 6, ranges, 0.3)).toBe("x");
  });

  test("files of one name in two folders are told apart", async () => {
    const file = write(
      "q.json",
      JSON.stringify([
        { file: "b/shot.mp4", caption: "in b" },
        { file: "c/shot.mp4", caption: "in c" },
      ]),
    );
    expect(await caption("b/shot.mp4", 0, 2, file)).toBe("in b");
    expect(await caption("c/shot.mp4", 0, 2, file)).toBe("in c");
    expect(await caption("c/other.mp4", 0, 2, file)).toBeNull();
    const stems = write("r.csv", "file,caption\nshot,by stem\n");
    expect(await caption("b/shot.mp4", 0, 2, stems)).toBe("by stem");
    const digests = write("s.csv", `file,caption\n${id},by digest\n`);
    expect(await caption("b/any.mp4", 0, 2, digests)).toBe("by digest");
  });

  test("files beside the video are found, and read again when they change", async () => {
    const state = new Sidecars();
    const ask = async () =>
      (await state.captionOf(clip(0, 2), source("beside.mp4"), { minOverlap: 0.5 }))?.text ?? null;
    expect(await ask()).toBeNull();
    const file = write("beside.txt", " a boat \n");
    expect(await ask()).toBe("a boat");
    write("beside.txt", "a ship");
    utimesSync(file, new Date(), new Date(Date.now() + 5000));
    expect(await ask()).toBe("a ship");
    write("beside.json", JSON.stringify({ caption: "a raft" }));
    expect(await ask()).toBe("a raft");
    // Somebody else's notes on the video are not captions.
    write("beside.json", JSON.stringify({ camera: { model: "x" } }));
    expect(await ask()).toBe("a ship");
  });

  test("what is wrong is named", async () => {
    const message = (name: string, text: string): string => {
      try {
        parseCaptions(text, name);
      } catch (error) {
        expect((error as WaverError).code).toBe("invalid_input");
        return (error as WaverError).message;
      }
      return "accepted";
    };
    expect(message("x.csv", "a,b\n1,2\n")).toContain("first line");
    expect(message("x.json", "{")).toContain("not JSON");
    expect(message("x.jsonl", '{"file":"a","caption":"b"}\nnope')).toContain("line 2");
    expect(message("x.json", '[{"file":"a","start":-1,"caption":"b"}]')).toContain("entry 1");
    expect(message("x.json", '[{"file":"a","start":3,"end":2,"caption":"b"}]')).toContain("before it starts");
    const missing = await new Sidecars()
      .captionOf(clip(0, 1), source("a.mp4"), { captions: join(folder, "none.csv"), minOverlap: 0.5 })
      .catch((error: WaverError) => error.code);
    expect(missing).toBe("not_found");
  });

  test("names give words, marks of cameras do not", () => {
    expect(wordsOf("/v/red-panda_climbs.1080p.mp4")).toBe("red panda climbs");
    expect(wordsOf("/v/WalkingDog.mp4")).toBe("walking dog");
    expect(wordsOf("/holiday in Rome/IMG_2041.mov")).toBe("holiday in rome");
    expect(wordsOf("/videos/clip-001.mp4")).toBeNull();
    expect(wordsOf("/狗/狗在跑步.mp4")).toBe("狗在跑步");
  });
});
