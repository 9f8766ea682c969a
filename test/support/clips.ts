/** Small real videos for tests, drawn by ffmpeg's own sources: nothing is downloaded or committed. */
import { rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { findFfmpeg } from "../../daemon/media/ffmpeg.ts";

export interface Shot {
  /** A lavfi source or chain, e.g. `testsrc=s=160x90:r=25` or `color=red:s=160x90:r=25`. */
  readonly source: string;
  readonly seconds: number;
}

/** Runs ffmpeg with these arguments; for fixtures only. */
export async function ffmpeg(...args: string[]): Promise<void> {
  const child = Bun.spawn([findFfmpeg(), "-v", "error", "-y", "-nostdin", ...args], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const said = await new Response(child.stderr).text();
  if ((await child.exited) !== 0) throw new Error(`ffmpeg failed: ${said}`);
}

/** A video whose shots follow each other by hard cuts. `gop` is the distance of key frames. */
export async function makeClip(
  path: string,
  shots: readonly Shot[],
  how: { size?: string; fps?: number; gop?: number; crf?: number } = {},
): Promise<string> {
  const size = how.size ?? "160x90";
  const fps = how.fps ?? 25;
  const inputs = shots.flatMap((shot) => ["-f", "lavfi", "-t", String(shot.seconds), "-i", shot.source]);
  const scaled = shots.map(
    (_, i) => `[${i}:v]scale=${size.replace("x", ":")},fps=${fps},setsar=1,format=yuv420p[v${i}]`,
  );
  const joined = `${shots.map((_, i) => `[v${i}]`).join("")}concat=n=${shots.length}:v=1:a=0[out]`;
  await ffmpeg(
    ...inputs,
    "-filter_complex",
    [...scaled, joined].join(";"),
    "-map",
    "[out]",
    "-c:v",
    "libx264",
    "-preset",
    "ultrafast",
    "-crf",
    String(how.crf ?? 18),
    "-g",
    String(how.gop ?? 250),
    "-threads",
    "1",
    path,
  );
  return path;
}

/** Three shots of 1.6, 2.0 and 1.4 s, 192 x 108 at 25 fps: cuts before frames 40 and 90. */
export const threeShots = (path: string): Promise<string> =>
  makeClip(
    path,
    [
      { source: "testsrc2=s=160x90:r=25", seconds: 1.6 },
      { source: "mandelbrot=s=160x90:r=25", seconds: 2 },
      { source: "life=s=160x90:r=25:mold=10:life_color=#ff8800:death_color=#0044aa:ratio=0.3:seed=7", seconds: 1.4 },
    ],
    { size: "192x108" },
  );

/** Files that must each end in one clear sentence. */
export async function badFiles(folder: string): Promise<{
  readonly text: string;
  readonly empty: string;
  readonly missing: string;
  readonly oneFrame: string;
  readonly cut: string;
}> {
  const at = (name: string) => join(folder, name);
  await writeFile(at("text.mp4"), "this is a letter, not a film\n".repeat(50));
  await writeFile(at("empty.mp4"), "");
  await ffmpeg(
    "-f",
    "lavfi",
    "-i",
    "testsrc2=s=64x48:r=25",
    "-frames:v",
    "1",
    "-pix_fmt",
    "yuv420p",
    at("one-frame.mp4"),
  );
  await ffmpeg("-f", "lavfi", "-t", "1", "-i", "testsrc2=s=64x48:r=25", "-pix_fmt", "yuv420p", at("whole.mp4"));
  // The index of an MP4 is at its end: without it nothing can be read.
  const whole = new Uint8Array(await Bun.file(at("whole.mp4")).arrayBuffer());
  await writeFile(at("cut.mp4"), whole.subarray(0, Math.floor(whole.length / 2)));
  await rm(at("whole.mp4"));
  return {
    text: at("text.mp4"),
    empty: at("empty.mp4"),
    missing: at("missing.mp4"),
    oneFrame: at("one-frame.mp4"),
    cut: at("cut.mp4"),
  };
}
