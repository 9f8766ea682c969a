/** Shot detectors against PySceneDetect: raw frames (exact arithmetic) and decoded video. */
import { createMedia } from "../../../daemon/media/index.ts";
import { DEFAULT_WEIGHTS, LUMA_WEIGHTS } from "../../../plugins/segment-shots/content.ts";
import {
  AdaptiveDetector,
  ContentDetector,
  type Detector,
  FadeDetector,
} from "../../../plugins/segment-shots/detectors.ts";
import { defineCase } from "../case.ts";

interface Expected {
  readonly args: Record<string, unknown>;
  readonly frames?: number;
  readonly cuts?: number[];
  readonly metrics: Record<string, (number | null)[]>;
}

function detectorFor(name: string, args: Record<string, unknown>, width: number, height: number): Detector {
  const number = (key: string, fallback: number): number => (args[key] as number | undefined) ?? fallback;
  const minSceneLen = number("min_scene_len", 15);
  const [hue, sat, lum, edges] = (args["weights"] as number[] | undefined) ?? [];
  const given =
    hue === undefined ? DEFAULT_WEIGHTS : { hue, sat: sat as number, lum: lum as number, edges: edges as number };
  const weights = args["luma_only"] === true ? LUMA_WEIGHTS : given;
  if (name.startsWith("content"))
    return new ContentDetector(width, height, {
      threshold: number("threshold", 27),
      minSceneLen,
      weights,
      edges: true,
    });
  if (name.startsWith("adaptive"))
    return new AdaptiveDetector(width, height, {
      adaptiveThreshold: number("adaptive_threshold", 3),
      windowWidth: number("window_width", 2),
      minContentVal: number("min_content_val", 15),
      minSceneLen,
      weights,
      edges: true,
    });
  return new FadeDetector({
    threshold: number("threshold", 12),
    minSceneLen,
    fadeBias: number("fade_bias", 0),
    addFinalScene: args["add_final_scene"] === true,
  });
}

/** Everything that expected.json says of one detector, from our frames. */
function detect(
  name: string,
  expected: Expected,
  frames: readonly Uint8Array[],
  width: number,
  height: number,
): Record<string, unknown> {
  const detector = detectorFor(name, expected.args, width, height);
  const cuts: number[] = [];
  const metrics: Record<string, (number | null)[]> = Object.fromEntries(
    Object.keys(expected.metrics).map((key) => [key, frames.map(() => null)]),
  );
  frames.forEach((frame, index) => {
    cuts.push(...detector.next(frame));
    for (const [key, value] of Object.entries(detector.metrics)) {
      const windowed = key === "adaptive_ratio" ? Object.keys(metrics).find((each) => each.startsWith(key)) : undefined;
      const column = metrics[windowed ?? key];
      const at = windowed === undefined ? index : index - Number(/w=(\d+)/.exec(windowed)?.[1]);
      if (column !== undefined && at >= 0) column[at] = value;
    }
  });
  cuts.push(...detector.finish());
  const edges = [0, ...cuts, frames.length];
  return {
    args: expected.args,
    frames: frames.length,
    cuts,
    scenes: edges.slice(1).map((end, i) => [edges[i], end]),
    metrics,
  };
}

/** The reference is BGR. */
function swapped(bgr: ArrayLike<number>, from: number, length: number): Uint8Array {
  const rgb = new Uint8Array(length);
  for (let i = 0; i < length; i += 3) {
    rgb[i] = bgr[from + i + 2] as number;
    rgb[i + 1] = bgr[from + i + 1] as number;
    rgb[i + 2] = bgr[from + i] as number;
  }
  return rgb;
}

/**
 * OpenCV's INTER_LINEAR without anti-aliasing, weights in 11-bit fixed point (resize.cpp): PySceneDetect shrinks frames
 * with it before it looks at them.
 */
function bilinear(rgb: Uint8Array, width: number, height: number, w: number, h: number): Uint8Array {
  const axis = (from: number, to: number): { at: Int32Array; weight: Int32Array } => {
    const at = new Int32Array(to);
    const weight = new Int32Array(to);
    for (let i = 0; i < to; i++) {
      const x = (i + 0.5) * (from / to) - 0.5;
      const floor = Math.floor(x);
      at[i] = Math.min(Math.max(floor, 0), from - 1);
      weight[i] = floor < 0 || floor >= from - 1 ? 0 : Math.round((x - floor) * 2048);
    }
    return { at, weight };
  };
  const xs = axis(width, w);
  const ys = axis(height, h);
  const out = new Uint8Array(w * h * 3);
  for (let y = 0, o = 0; y < h; y++) {
    const top = (ys.at[y] as number) * width * 3;
    const bottom = Math.min(height - 1, (ys.at[y] as number) + 1) * width * 3;
    const fy = ys.weight[y] as number;
    for (let x = 0; x < w; x++) {
      const left = (xs.at[x] as number) * 3;
      const right = Math.min(width - 1, (xs.at[x] as number) + 1) * 3;
      const fx = xs.weight[x] as number;
      for (let c = 0; c < 3; c++, o++) {
        const a = (rgb[top + left + c] as number) * (2048 - fx) + (rgb[top + right + c] as number) * fx;
        const b = (rgb[bottom + left + c] as number) * (2048 - fx) + (rgb[bottom + right + c] as number) * fx;
        out[o] = ((((2048 - fy) * (a >> 4)) >> 16) + ((fy * (b >> 4)) >> 16) + 2) >> 2;
      }
    }
  }
  return out;
}

async function decoded(path: string): Promise<{ frames: Uint8Array[]; width: number; height: number }> {
  const media = createMedia();
  const { width, height } = await media.probe(path);
  const factor = Math.max(1, Math.max(width, height) / 256);
  const small = { width: Math.round(width / factor), height: Math.round(height / factor) };
  const frames: Uint8Array[] = [];
  for await (const batch of media.frames(path, {
    width,
    height,
    fit: "stretch",
    rate: "native",
    format: "rgb24",
    batch: 8,
  })) {
    const size = width * height * 3;
    for (let i = 0; i < batch.count; i++)
      frames.push(bilinear(batch.data.subarray(i * size, (i + 1) * size), width, height, small.width, small.height));
  }
  return { frames, ...small };
}

export default defineCase({
  cases: ["scene_detect_frames", "scene_detect_video"],
  async run(golden, produce) {
    const expected = golden.expected ?? {};
    if (golden.has("frames_bgr_u8")) {
      const { shape, data } = golden.input("frames_bgr_u8");
      const [count, height, width] = shape as [number, number, number];
      const size = width * height * 3;
      const frames = Array.from({ length: count }, (_, i) => swapped(data, i * size, size));
      for (const [name, value] of Object.entries(expected))
        produce.json(name, detect(name, value as Expected, frames, width, height), 1e-4);
      return;
    }
    for (const [video, detectors] of Object.entries(expected as Record<string, Record<string, Expected>>)) {
      const { frames, width, height } = await decoded(golden.path("videos", video));
      const found = Object.entries(detectors).map(([name, value]) => [
        name,
        detect(name, value, frames, width, height),
      ]);
      // Decoders and YUV conversions differ; the case's own tolerance, which leaves no frame of play for a cut.
      produce.json(video, Object.fromEntries(found), 0.75);
    }
  },
});
