/**
 * How frames become H.264, and a file that is held to its frames: it is decoded once and compared, and where 4:2:0 colour
 * or the quantiser cost more than allowed, it is encoded anew, larger.
 *
 * The frames are kept as raw pixels for that. 81 of 832 x 480 (97 MB) are written in 0.03 s and compared in 0.7; without
 * loss in H.264 (42 to 53 MB) it was 0.6 s and 1.4. x264's own PSNR says nothing of what 4:2:0 and the way to RGB cost: 44.6
 * dB where the decoded file has 39.5.
 */
import { WaverError } from "../../plugins/errors.ts";
import { spawnChild } from "./child.ts";
import { fileUrl, type Limits, quiet, rational } from "./ffmpeg.ts";
import { writeFailure } from "./verdict.ts";

/** What every child of one written file shares. `target` is named when it fails. */
export interface Run {
  readonly program: string;
  readonly target: string;
  readonly limits: Limits;
  readonly signal?: AbortSignal | undefined;
}

export interface Quality {
  readonly chroma: "yuv420p" | "yuv444p";
  readonly crf: number;
}

/** Frames as raw pixels: of a pipe or a file. */
export interface Raw {
  readonly width: number;
  readonly height: number;
  readonly format: string;
  readonly fps: number;
}

/** What a file was made with, and how near it came. */
export interface Reached extends Quality {
  readonly psnr: number;
}

export const rawInput = ({ width, height, format, fps }: Raw, url: string): string[] => [
  ...["-f", "rawvideo", "-pix_fmt", format, "-s", `${width}x${height}`],
  ...["-framerate", rational(fps), "-i", url],
];

/** Plays in a browser: H.264, moov in front. 4:4:4 plays in Chromium, Firefox and players on ffmpeg, not everywhere. */
export const h264 = ({ chroma, crf }: Quality): string[] => [
  // Without these the matrix is a guess of each player; swscale's own default is BT.601, browsers assume 709 for HD.
  "-vf",
  `scale=flags=bicubic:out_color_matrix=bt709:out_range=tv,format=${chroma}`,
  "-colorspace",
  "bt709",
  "-color_primaries",
  "bt709",
  "-color_trc",
  "bt709",
  "-color_range",
  "tv",
  "-c:v",
  "libx264",
  "-preset",
  "medium",
  "-crf",
  String(crf),
  "-movflags",
  "+faststart",
  "-fflags",
  "+bitexact",
  "-flags:v",
  "+bitexact",
  "-f",
  "mp4",
];

export const tagged = (comment: string | undefined): string[] =>
  comment === undefined ? [] : ["-metadata", `comment=${comment}`];

/** From small to faithful. A step of 6 in CRF is worth about 4 dB; noise in colour needs every pixel's. */
const LADDER: readonly Quality[] = [
  { chroma: "yuv420p", crf: 10 },
  { chroma: "yuv444p", crf: 8 },
  { chroma: "yuv444p", crf: 2 },
  { chroma: "yuv444p", crf: 1 },
];
/** What a smaller CRF in 4:2:0 can make up for. */
const REACH = 6;
/** Players convert colours a little differently. */
const MARGIN = 0.5;

/**
 * Holds the file at `path`, made with `plain`, to the frames in `exact`: while it decodes to fewer than `minPsnr` decibels it
 * is made anew, up the ladder. The last rung stays where none reaches.
 */
export async function hold(
  run: Run,
  exact: Raw & { readonly path: string },
  path: string,
  tags: readonly string[],
  plain: Quality,
  minPsnr: number,
): Promise<Reached> {
  const wanted = minPsnr + MARGIN;
  let reached: Reached = { ...plain, psnr: await psnr(run, path, exact) };
  for (const quality of LADDER) {
    if (reached.psnr >= wanted) break;
    if (quality.chroma === "yuv420p" && reached.psnr < wanted - REACH) continue;
    const threads = ["-threads", String(run.limits.threads)];
    await ffmpeg(run, [
      ...[...quiet("error"), "-y", ...rawInput(exact, fileUrl(exact.path))],
      ...[...h264(quality), ...tags, ...threads, fileUrl(path)],
    ]);
    reached = { ...quality, psnr: await psnr(run, path, exact) };
  }
  return reached;
}

/** Decibels between what a file decodes to and raw pixels, in RGB, over all frames and channels. */
async function psnr(run: Run, path: string, exact: Raw & { readonly path: string }): Promise<number> {
  // frame by frame: containers keep time in units of their own
  const counted = "format=gbrp,settb=AVTB,setpts=N*1000";
  const compare = `[0:v]${counted}[a];[1:v]${counted}[b];[a][b]psnr`;
  const threads = String(run.limits.threads);
  const said = await ffmpeg(run, [
    ...[...quiet("info"), "-threads", threads, "-i", fileUrl(path), ...rawInput(exact, fileUrl(exact.path))],
    ...["-filter_complex_threads", threads, "-lavfi", compare, "-f", "null", "-"],
  ]);
  const average = /PSNR [^\n]*average:(\S+)/.exec(said)?.[1];
  if (average === undefined)
    throw new WaverError("tool_missing", "this ffmpeg did not compare two videos", {
      hint: "install an ffmpeg with the filter psnr, or set minPsnr to 0",
    });
  return average === "inf" ? Number.POSITIVE_INFINITY : Number(average);
}

/** Runs to the end; what it said. */
async function ffmpeg({ program, target, limits, signal }: Run, args: readonly string[]): Promise<string> {
  await using child = spawnChild(program, args, { limits, cpuSeconds: 24 * 3600, pipes: 1, writes: true, signal });
  await child.drain(0);
  const result = await child.finished();
  if (result.code !== 0) throw writeFailure(target, result, signal);
  return result.stderr;
}
