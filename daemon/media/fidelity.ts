/**
 * How frames become H.264, and a file that is held to its frames: it is decoded again and compared, and where 4:2:0 colour
 * or the quantiser cost more than allowed, it is encoded anew, larger.
 */
import { WaverError } from "../../plugins/errors.ts";
import { spawnChild } from "./child.ts";
import { fileUrl, type Limits, quiet } from "./ffmpeg.ts";
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

/** RGB as it is, quickly: kept only while attempts are made. */
export const LOSSLESS = ["-c:v", "libx264rgb", "-preset", "ultrafast", "-qp", "0", "-f", "matroska"] as const;

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

/** The smallest file of the ladder, `plain` first, that decodes to the frames in `exact` at `minPsnr` decibels or more. */
export async function encodeFaithfully(
  run: Run,
  exact: string,
  path: string,
  tags: readonly string[],
  plain: Quality,
  minPsnr: number,
): Promise<void> {
  const wanted = minPsnr + MARGIN;
  let reached = Number.NEGATIVE_INFINITY;
  for (const quality of [plain, ...LADDER]) {
    if (quality !== plain && quality.chroma === "yuv420p" && reached < wanted - REACH) continue;
    const threads = ["-threads", String(run.limits.threads)];
    await ffmpeg(run, [
      ...[...quiet("error"), "-y", "-i", fileUrl(exact)],
      ...[...h264(quality), ...tags, ...threads, fileUrl(path)],
    ]);
    reached = await psnr(run, path, exact);
    if (reached >= wanted) return;
  }
}

/** Decibels between what two files decode to, in RGB, over all frames and channels. */
async function psnr(run: Run, path: string, exact: string): Promise<number> {
  // frame by frame: containers keep time in units of their own
  const counted = "format=gbrp,settb=AVTB,setpts=N*1000";
  const compare = `[0:v]${counted}[a];[1:v]${counted}[b];[a][b]psnr`;
  const said = await ffmpeg(run, [
    ...[...quiet("info"), "-i", fileUrl(path), "-i", fileUrl(exact)],
    ...["-lavfi", compare, "-f", "null", "-"],
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
