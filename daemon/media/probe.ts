/**
 * Facts of a video file, from its packets: ffmpeg copies them, undecoded, into a list with time, duration and size of
 * each. So the frame count is counted, not believed, and no ffprobe is needed (static builds have none).
 */
import { basename, dirname, resolve } from "node:path";
import { WaverError } from "../../plugins/errors.ts";
import { Digest, type Source } from "../../plugins/types.ts";
import { type Child, spawnChild } from "./child.ts";
import { input, type Limits, quiet } from "./ffmpeg.ts";
import { fileFacts, readFailure, throwIfCancelled, tooLarge } from "./verdict.ts";

/** Rates a container is snapped to when its packets are within 0.1 %: millisecond containers cannot say 1/30. */
const RATES = [
  6,
  8,
  10,
  12,
  12.5,
  15,
  16,
  20,
  24000 / 1001,
  24,
  25,
  30000 / 1001,
  30,
  48,
  50,
  60000 / 1001,
  60,
  90,
  100,
  120,
];

/** Seconds. Nothing that is curated lasts longer than a day. */
const LONGEST = 24 * 3600;
/** Frames a second: a slide show of one picture in ten seconds is the least that is still a video. */
const SLOWEST = 0.1;

export async function probeFile(program: string, path: string, limits: Limits, signal?: AbortSignal): Promise<Source> {
  const { bytes } = await fileFacts(path);
  const [packets, id] = await Promise.all([listPackets(program, path, limits, signal), hashFile(path, signal)]);
  const name = basename(path);
  const { width, height, count, first, last, size } = packets;
  if (width * height > limits.maxPixels) throw tooLarge(name);
  const tick = packets.timebase;
  const fps =
    count > 1 && last.pts > first
      ? snapped((count - 1) / ((last.pts - first) * tick))
      : last.duration > 0
        ? snapped(1 / (last.duration * tick))
        : 25;
  const end = last.pts + (last.duration > 0 ? last.duration : 1 / (fps * tick));
  const duration = (end - first) * tick;
  // Frames are laid on an even grid, so a gap of years would be filled with copies: a bomb of a few bytes.
  if (duration > LONGEST || fps < SLOWEST) {
    throw new WaverError(
      "media_unreadable",
      `the time stamps of ${name} make no sense: ${count} frames in ${Math.round(duration)} s`,
      {
        hint: "convert it again from its source",
      },
    );
  }
  const turned = packets.rotation % 180 !== 0;
  return {
    id,
    path: resolve(path),
    tag: basename(dirname(resolve(path))) || "videos",
    width: turned ? height : width,
    height: turned ? width : height,
    fps,
    numFrames: count,
    duration,
    bitrate: duration > 0 ? (size * 8) / duration : bytes * 8,
    codec: packets.codec,
  };
}

interface Packets {
  readonly width: number;
  readonly height: number;
  readonly codec: string;
  /** Seconds of one tick. */
  readonly timebase: number;
  readonly count: number;
  readonly first: number;
  readonly last: { readonly pts: number; readonly duration: number };
  readonly size: number;
  /** Degrees that a player turns the picture by. */
  readonly rotation: number;
}

async function listPackets(program: string, path: string, limits: Limits, signal?: AbortSignal): Promise<Packets> {
  const args = [...quiet("info"), ...input(path, limits), "-map", "0:V:0", "-c", "copy", "-f", "framecrc", "pipe:1"];
  // 30 s of CPU copy several hours of packets; a header that claims more is a lie (reliability M1).
  await using child = spawnChild(program, args, { limits, cpuSeconds: 30, pipes: 1, signal });
  const seen = {
    width: 0,
    height: 0,
    codec: "",
    timebase: 0,
    count: 0,
    first: Number.POSITIVE_INFINITY,
    last: { pts: Number.NEGATIVE_INFINITY, duration: 0 },
    size: 0,
  };
  const stall = setTimeout(() => child.kill("stall"), limits.stallSeconds * 1000);
  try {
    for await (const line of lines(child)) {
      stall.refresh();
      readLine(line, seen);
    }
  } finally {
    clearTimeout(stall);
  }
  const ended = await child.finished();
  throwIfCancelled(signal);
  if (ended.code !== 0 || seen.count === 0 || seen.width === 0) throw readFailure(path, ended, signal);
  if (!Number.isFinite(seen.first))
    throw new WaverError("media_unreadable", `${basename(path)} has no time stamps`, {
      hint: "convert it to MP4 first",
    });
  const rotation = Number(/rotation of (-?\d+(?:\.\d+)?) degrees/.exec(ended.stderr)?.[1] ?? 0);
  return { ...seen, rotation: Math.round(rotation) };
}

type Seen = { -readonly [K in keyof Omit<Packets, "rotation">]: Packets[K] };

/** `#key 0: value` headers, then `stream, dts, pts, duration, size, crc` of each packet. */
function readLine(line: string, seen: Seen): void {
  const header = /^#(tb|codec_id|dimensions) 0: (\S+)/.exec(line);
  if (header !== null) {
    const [a, b] = (header[2] as string).split(/[x/]/).map(Number) as [number, number];
    if (header[1] === "tb") seen.timebase = a / b;
    else if (header[1] === "codec_id") seen.codec = header[2] as string;
    else [seen.width, seen.height] = [a, b];
    return;
  }
  if (line.startsWith("#")) return;
  const [, dts, pts, duration, size] = line.split(",").map((field) => Number(field));
  const time = pts === undefined || !Number.isFinite(pts) ? dts : pts;
  if (time === undefined || !Number.isFinite(time)) return;
  seen.count++;
  seen.first = Math.min(seen.first, time);
  if (time >= seen.last.pts) seen.last = { pts: time, duration: duration ?? 0 };
  seen.size += size ?? 0;
}

async function* lines(child: Child): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  let rest = "";
  for (let chunk = await child.read(0); chunk !== null; chunk = await child.read(0)) {
    const parts = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = parts.pop() ?? "";
    yield* parts;
  }
  if (rest !== "") yield rest;
}

function snapped(rate: number): number {
  const near = RATES.find((known) => Math.abs(rate / known - 1) < 1e-3);
  return near ?? Math.min(1000, rate);
}

export async function hashFile(path: string, signal?: AbortSignal): Promise<Digest> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of Bun.file(path).stream()) {
    throwIfCancelled(signal);
    hasher.update(chunk);
  }
  return Digest.parse(`sha256:${hasher.digest("hex")}`);
}
