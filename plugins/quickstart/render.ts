/**
 * Renders the scenes of `scenes.ts` into video files with several shots each, cut hard, so that shot detection has
 * something to find, and says what every shot shows.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import sharp from "sharp";
import type { FrameBatch, Media } from "../index.ts";
import { drawScene, SCENE_SIZE, SCENES, type Scene } from "./scenes.ts";

/** One shot of a file: what a caption sidecar holds. */
export interface CaptionedShot {
  readonly file: string;
  /** Seconds from the start of the file. */
  readonly start: number;
  readonly end: number;
  readonly caption: string;
}

/** Frames a second of a rendered file: film's rate, three times the nano model's. */
const FPS = 24;
/** 2.5 s a shot: over the 2 s that Waver 3.1 asks of a clip. */
const SHOT_FRAMES = 60;
const SHOTS_A_FILE = 4;

async function* frames(scenes: readonly Scene[], seed: number, signal: AbortSignal): AsyncIterable<FrameBatch> {
  let index = 0;
  for (const [i, scene] of scenes.entries()) {
    for (const svg of drawScene(scene, seed * 1009 + i, SHOT_FRAMES)) {
      signal.throwIfAborted();
      const data = await sharp(Buffer.from(svg)).removeAlpha().toColourspace("srgb").raw().toBuffer();
      yield {
        data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
        count: 1,
        width: SCENE_SIZE,
        height: SCENE_SIZE,
        format: "rgb24",
        times: [index++ / FPS],
      };
    }
  }
}

/**
 * Writes `scenes-<seed>-<k>.mp4` files into `folder` and returns their shots, in order. The same seed gives the same pictures.
 * @param names scenes to render; all when absent
 */
export async function renderScenes(
  folder: string,
  how: {
    readonly seed: number;
    readonly media: Media;
    readonly signal: AbortSignal;
    readonly names?: readonly string[];
  },
): Promise<CaptionedShot[]> {
  await mkdir(folder, { recursive: true });
  const wanted =
    how.names === undefined
      ? SCENES
      : how.names.map((name) => {
          const scene = SCENES.find((s) => s.name === name);
          if (scene === undefined) throw new RangeError(`no scene is called ${name}`);
          return scene;
        });
  const shots: CaptionedShot[] = [];
  for (let k = 0; k * SHOTS_A_FILE < wanted.length; k++) {
    const group = wanted.slice(k * SHOTS_A_FILE, (k + 1) * SHOTS_A_FILE);
    const file = join(folder, `scenes-${how.seed}-${k}.mp4`);
    await how.media.writeVideo(file, frames(group, how.seed + k, how.signal), {
      fps: FPS,
      crf: 14,
      signal: how.signal,
    });
    for (const [i, scene] of group.entries())
      shots.push({ file, start: (i * SHOT_FRAMES) / FPS, end: ((i + 1) * SHOT_FRAMES) / FPS, caption: scene.caption });
  }
  return shots;
}
