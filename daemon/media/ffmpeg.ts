/**
 * Where ffmpeg is, and the only way its argument lists are made.
 *
 * Every flag below is written here; callers give numbers, enums and one path. The path is passed as `file:` + absolute
 * path, so a name can neither become an option nor select another protocol. Playlist and script demuxers (HLS,
 * ffconcat, DASH, SDP) are left out of the format list: with them a renamed text file reads other files.
 */
import { accessSync, constants, existsSync } from "node:fs";
import { createRequire } from "node:module";
import { homedir } from "node:os";
import { delimiter, isAbsolute, join, resolve } from "node:path";
import { WaverError } from "../../plugins/errors.ts";

export interface MediaConfig {
  /** Path of the ffmpeg program; when absent it is searched. */
  readonly ffmpeg?: string | undefined;
  /** Folder of what set-up fetched. */
  readonly cache?: string | undefined;
  /** Pixels of one frame beyond which a file is refused. 100 million: a 15000 x 15000 image costs 750 MB to decode. */
  readonly maxPixels?: number | undefined;
  /** Threads of one ffmpeg process, 1 or 2. */
  readonly threads?: number | undefined;
  /** Seconds without any output, while output is awaited, after which a child is killed. */
  readonly stallSeconds?: number | undefined;
}

export interface Limits {
  readonly maxPixels: number;
  readonly threads: number;
  readonly stallSeconds: number;
}

export const limitsOf = (config: MediaConfig): Limits => ({
  maxPixels: config.maxPixels ?? 100_000_000,
  threads: Math.min(2, Math.max(1, config.threads ?? 1)),
  stallSeconds: config.stallSeconds ?? 60,
});

type Env = Readonly<Record<string, string | undefined>>;

/** Finds ffmpeg: the given path or WAVER_FFMPEG, PATH, ffmpeg-static, then what set-up put into the cache. */
export function findFfmpeg(config: MediaConfig = {}, env: Env = process.env): string {
  const named = config.ffmpeg ?? env["WAVER_FFMPEG"];
  if (named !== undefined && named !== "") {
    if (isProgram(named)) return resolve(named);
    throw new WaverError("tool_missing", "the ffmpeg named by WAVER_FFMPEG is not a program", {
      hint: "set WAVER_FFMPEG to the ffmpeg program itself, or unset it",
    });
  }
  const cache = config.cache ?? env["WAVER_CACHE"] ?? join(env["XDG_CACHE_HOME"] ?? join(homedir(), ".cache"), "waver");
  const places = [
    ...(env["PATH"] ?? "")
      .split(delimiter)
      .filter((folder) => isAbsolute(folder))
      .map((folder) => join(folder, "ffmpeg")),
    ffmpegStatic(),
    join(cache, "ffmpeg", "ffmpeg"),
    join(cache, "imageio-ffmpeg", "ffmpeg"),
  ];
  const found = places.find((place) => place !== null && isProgram(place));
  if (found !== null && found !== undefined) return found;
  throw new WaverError("tool_missing", "ffmpeg was not found", {
    hint: "run `npm run setup`, or install ffmpeg 4.4 or newer, or set WAVER_FFMPEG to its path",
  });
}

/** The package's import gives a path even when its install script never ran, so the file is what counts. */
function ffmpegStatic(): string | null {
  try {
    const path: unknown = createRequire(import.meta.url)("ffmpeg-static");
    return typeof path === "string" && existsSync(path) ? path : null;
  } catch {
    return null; // an optional dependency that is not installed
  }
}

function isProgram(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Containers that hold one stream of frames and refer to no other file. */
const FORMATS = "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,flv,ogg,asf,gif,ivf,yuv4mpegpipe";

/**
 * What cameras, phones, editors and the web make; the sound beside it is opened while a file is looked at. A codec that
 * nobody uses is one that nobody has attacked for us: 21 old ones of a single audit (reliability.md 1).
 */
const CODECS = [
  "h264,hevc,vp8,vp9,libvpx,libvpx-vp9,av1,libdav1d,libaom-av1",
  "mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,mpeg1video,mpeg2video,h263,h263p,flv,wmv1,wmv2,wmv3,vc1,theora",
  "mjpeg,prores,dnxhd,ffv1,huffyuv,ffvhuff,rawvideo,dvvideo,gif,png,qtrle",
  "aac,aac_latm,mp2,mp2float,mp3,mp3float,ac3,eac3,dca,flac,alac,opus,libopus,vorbis,libvorbis,wmav1,wmav2,amrnb,amrwb",
  "pcm_u8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_f32le,pcm_alaw,pcm_mulaw,adpcm_ima_wav,adpcm_ms",
].join(",");

/** A stream count above this is a bomb, not a video. */
const MAX_STREAMS = 64;

/** Arguments that come first in every call. */
export const quiet = (level: "error" | "info"): string[] => [
  "-hide_banner",
  "-nostdin",
  "-nostats",
  "-loglevel",
  level,
];

export interface Opening {
  /** Seconds from the start of the file. */
  readonly start?: number | undefined;
  /** Seconds to read at most. */
  readonly duration?: number | undefined;
}

/** Arguments that open a file of unknown origin. */
export function input(path: string, limits: Limits, opening: Opening = {}): string[] {
  return [
    "-protocol_whitelist",
    "file,pipe",
    "-format_whitelist",
    FORMATS,
    "-codec_whitelist",
    CODECS,
    "-max_streams",
    String(MAX_STREAMS),
    "-max_pixels",
    String(limits.maxPixels),
    "-threads",
    String(limits.threads),
    ...(opening.start === undefined || opening.start <= 0 ? [] : ["-ss", seconds(opening.start)]),
    ...(opening.duration === undefined ? [] : ["-t", seconds(opening.duration)]),
    "-i",
    fileUrl(path),
  ];
}

/** The first real video stream (not cover art), nothing else. */
export const VIDEO_ONLY = ["-map", "0:V:0", "-an", "-sn", "-dn"] as const;

export function fileUrl(path: string): string {
  if (path.includes("\0")) throw new WaverError("invalid_input", "a path holds a NUL character");
  return `file:${resolve(path)}`;
}

/** Microseconds are ffmpeg's own resolution for times. */
export function seconds(value: number): string {
  if (!Number.isFinite(value) || value < 0)
    throw new WaverError("invalid_input", `a time must be zero or more seconds, not ${value}`);
  return value.toFixed(6);
}

/**
 * A frame rate as ffmpeg wants it. Rates within 0.01 % of n/1.001 are NTSC rates and must be exact: at 29.97 instead
 * of 30000/1001 the grid drifts by one frame in 17 minutes.
 */
export function rational(rate: number): string {
  if (!Number.isFinite(rate) || rate <= 0 || rate > 1000)
    throw new WaverError("invalid_input", `a frame rate must be above 0 and at most 1000, not ${rate}`);
  const whole = Math.round(rate);
  if (Math.abs(rate - whole) < 1e-6) return `${whole}/1`;
  const ntsc = Math.round(rate * 1.001);
  if (ntsc > 0 && Math.abs((rate * 1.001) / ntsc - 1) < 1e-4) return `${ntsc * 1000}/1001`;
  return `${Math.round(rate * 1e6)}/1000000`;
}
