/** Inputs that the contract suites run providers on: small, seeded, and nasty in the ways that real clips are. */
import type { AnyProvider } from "./define.ts";
import type { HookName } from "./hooks.ts";
import type { ClipFrames, Digest, FrameBatch, FrameView } from "./types.ts";

const id = (digit: string): Digest => `sha256:${digit.repeat(64)}` as Digest;
const SECONDS = 2;
/** What a view of rate `native` sees. */
const FPS = 12;

/** Pixel value 0-255 of a sample at frame `t` and place `x`, `y`, each in [0, 1]. */
type Paint = (t: number, x: number, y: number) => number;

const paints: Readonly<Record<string, Paint>> = {
  grey: () => 128,
  black: () => 0,
  moving: (t, x) => (Math.abs(x - t) < 0.15 ? 240 : 20),
  cut: (t, x, y) => (t < 0.5 ? 255 * x : 255 * (1 - y)),
  noise: (t, x, y) => (Math.abs(Math.sin((t * 7919 + x * 104_729 + y * 1_299_709) * 12.9898)) * 43_758.5453) % 256,
};

/** Makers of inputs of a hook (a stream can be read once), or null when the hook's inputs live beside tensors or on disk. */
export function samplesOf(hook: HookName, provider: AnyProvider): readonly (() => unknown)[] | null {
  const { view } = provider.traits as { view?: FrameView | null };
  if (hook === "score" || hook === "embed" || hook === "segment" || hook === "caption")
    return Object.values(paints).map((paint) => () => clip(paint, view ?? null));
  if (hook === "rewrite")
    return ["a red ball rolls over grass", "", "一只猫", "x".repeat(4000)].map((text) => () => ({
      text,
      negative: "",
      seconds: 5,
    }));
  // What is not there is nobody's layout.
  if (hook === "layout") return ["/nowhere", "/nowhere/model.safetensors"].map((path) => () => ({ path }));
  return null;
}

function clip(paint: Paint, view: FrameView | null): ClipFrames {
  return {
    clip: { id: id("a"), source: id("b"), start: 0, end: SECONDS },
    source: {
      id: id("b"),
      path: "/nowhere/sample.mp4",
      tag: "sample",
      width: 64,
      height: 64,
      fps: FPS,
      numFrames: SECONDS * FPS,
      duration: SECONDS,
      bitrate: 1e6,
      codec: "h264",
    },
    frames: view === null ? nothing() : stream(paint, view),
  };
}

/** For captioners that look at facts only. */
async function* nothing(): AsyncGenerator<FrameBatch> {
  yield* [];
}

async function* stream(paint: Paint, view: FrameView): AsyncGenerator<FrameBatch> {
  const rate = view.rate === "native" ? FPS : view.rate;
  const total = Math.max(1, Math.round(SECONDS * rate));
  const channels = view.format === "rgb24" ? 3 : 1;
  for (let from = 0; from < total; from += view.batch) {
    const count = Math.min(view.batch, total - from);
    const data = new Uint8Array(count * view.width * view.height * channels);
    let at = 0;
    for (let frame = from; frame < from + count; frame++)
      for (let y = 0; y < view.height; y++)
        for (let x = 0; x < view.width; x++) {
          const value = paint(frame / total, x / view.width, y / view.height);
          for (let channel = 0; channel < channels; channel++) data[at++] = value;
        }
    yield {
      data,
      count,
      width: view.width,
      height: view.height,
      format: view.format,
      times: Array.from({ length: count }, (_, i) => (from + i) / rate),
    };
  }
}
