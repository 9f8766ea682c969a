/**
 * MP4 files that play in a browser (H.264, yuv420p, moov in front), published whole or not at all, with their recipe
 * in the comment tag.
 */
import { type FileHandle, open, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { WaverError } from "../../plugins/errors.ts";
import type { FrameBatch } from "../../plugins/types.ts";
import { spawnChild } from "./child.ts";
import { fileUrl, input, type Limits, quiet } from "./ffmpeg.ts";
import { h264, hold, type Raw, type Reached, type Run, rawInput, tagged } from "./fidelity.ts";
import { cancelled, diskFull, fileFacts, readFailure, throwIfCancelled, writeFailure } from "./verdict.ts";

export interface WriteOptions {
  readonly fps: number;
  readonly metadata?: Readonly<Record<string, unknown>> | undefined;
  readonly crf?: number | undefined;
  /** Least PSNR of what the file decodes to, to the frames, in decibels; larger files where it takes them. */
  readonly minPsnr?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

type Frames = AsyncIterable<FrameBatch> | Iterable<FrameBatch>;

/** Linux refuses a single argument of 128 KiB or more. */
const MAX_METADATA = 120_000;
/** Visually close to the source at about 8 KB for a 17-frame 96 x 96 clip (measured, materials.md D). */
const CRF = 18;

export async function writeVideoFile(
  program: string,
  path: string,
  source: Frames,
  how: WriteOptions,
  limits: Limits,
): Promise<{ psnr?: number }> {
  const target = resolve(path);
  const name = basename(target);
  const comment = how.metadata === undefined ? undefined : JSON.stringify(how.metadata);
  if (comment !== undefined && Buffer.byteLength(comment) > MAX_METADATA)
    throw new WaverError("too_large", `the metadata for ${name} is larger than ${MAX_METADATA} bytes`);
  const iterator = Symbol.asyncIterator in source ? source[Symbol.asyncIterator]() : source[Symbol.iterator]();
  const beside = (): string => join(dirname(target), `.${name}.${process.pid}-${crypto.randomUUID().slice(0, 8)}.tmp`);
  const [temporary, exact] = [beside(), beside()];
  try {
    const first = await iterator.next();
    throwIfCancelled(how.signal);
    if (first.done) throw new WaverError("invalid_input", `${name} cannot be written: there are no frames`);
    await removeAbandoned(target);
    const plain = { chroma: "yuv420p", crf: how.crf ?? CRF } as const;
    const { minPsnr = 0, fps, signal } = how;
    const frames = { first: first.value, rest: iterator, fps };
    const run = { program, target, limits, signal };
    const output = [...h264(plain), ...tagged(comment)];
    let reached: Reached | undefined;
    if (minPsnr === 0) await encode(run, frames, temporary, output);
    else {
      const raw = await encode(run, frames, temporary, output, exact);
      reached = await hold(run, { ...raw, path: exact }, temporary, tagged(comment), plain, minPsnr);
    }
    await sync(temporary);
    await rename(temporary, target);
    await sync(dirname(target));
    return reached === undefined ? {} : { psnr: reached.psnr };
  } catch (error) {
    await rm(temporary, { force: true });
    if (how.signal?.aborted) throw cancelled();
    const code = (error as { code?: unknown }).code;
    if (code === "ENOSPC" || code === "EDQUOT") throw diskFull(name, error);
    throw error;
  } finally {
    await rm(exact, { force: true });
    await iterator.return?.();
  }
}

interface Stream {
  readonly first: FrameBatch;
  readonly rest: AsyncIterator<FrameBatch> | Iterator<FrameBatch>;
  readonly fps: number;
}

/** Frames into a file as they come, as `output` says; with `spool` their pixels into that file too. */
async function encode(
  run: Run,
  { first, rest, fps }: Stream,
  path: string,
  output: readonly string[],
  spool?: string,
): Promise<Raw> {
  const { program, target, limits, signal } = run;
  const { width, height, format } = first;
  // 4:2:0 has one colour sample for 2 x 2 pixels: an odd side is extended by repeating its last line.
  const even = { width: width + (width % 2), height: height + (height % 2) };
  const raw = { ...even, format, fps };
  const args = [
    ...["-hide_banner", "-nostats", "-loglevel", "error", "-y"],
    ...[...rawInput(raw, "pipe:0"), ...output, "-threads", String(limits.threads), fileUrl(path)],
  ];
  await using pixels: FileHandle | null = spool === undefined ? null : await open(spool, "w");
  await using child = spawnChild(program, args, {
    limits,
    cpuSeconds: 24 * 3600,
    pipes: 1,
    stdin: true,
    writes: true,
    signal,
  });
  const sink = child.stdin as Bun.FileSink;
  let ended = false;
  void child.finished().then(() => {
    ended = true;
  });
  for (let batch = first; ; ) {
    if (batch.width !== width || batch.height !== height || batch.format !== format) {
      throw new WaverError(
        "shape_mismatch",
        `frames changed from ${width} x ${height} ${format} to ${batch.width} x ${batch.height} ${batch.format}`,
      );
    }
    const bytes = even.width === width && even.height === height ? batch.data : extended(batch, even);
    await pixels?.writeFile(bytes);
    if (ended || !(await delivered(sink, bytes, limits, () => child.kill("stall")))) break;
    const next = await rest.next();
    throwIfCancelled(signal);
    if (next.done) break;
    batch = next.value;
  }
  try {
    await sink.end();
  } catch {
    // The child closed its end first; its exit code says why.
  }
  const result = await child.finished();
  if (result.code !== 0) throw writeFailure(target, result, signal);
  return raw;
}

/** Writes and waits until the pipe has taken it; false when the child is gone. */
async function delivered(sink: Bun.FileSink, bytes: Uint8Array, limits: Limits, onStall: () => void): Promise<boolean> {
  const stall = setTimeout(onStall, limits.stallSeconds * 1000);
  try {
    // One write is at most 1 MB, so that a slow encoder and not our memory holds the frames.
    for (let at = 0; at < bytes.length; at += 1 << 20) {
      sink.write(bytes.subarray(at, at + (1 << 20)));
      await sink.flush();
    }
    return true;
  } catch {
    return false;
  } finally {
    clearTimeout(stall);
  }
}

function extended(batch: FrameBatch, even: { width: number; height: number }): Uint8Array {
  const channels = batch.format === "rgb24" ? 3 : 1;
  const out = new Uint8Array(batch.count * even.width * even.height * channels);
  const row = batch.width * channels;
  const wide = even.width * channels;
  for (let f = 0; f < batch.count; f++) {
    for (let y = 0; y < even.height; y++) {
      const from = (f * batch.height + Math.min(y, batch.height - 1)) * row;
      const to = (f * even.height + y) * wide;
      out.set(batch.data.subarray(from, from + row), to);
      if (wide > row) out.set(batch.data.subarray(from + row - channels, from + row), to + row);
    }
  }
  return out;
}

/** Temporary files of this target whose writer is gone: a killed process leaves one. */
async function removeAbandoned(target: string): Promise<void> {
  const folder = dirname(target);
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (cause) {
    throw new WaverError("not_found", `the folder for ${basename(target)} does not exist`, {
      cause,
      hint: "create it first",
    });
  }
  const prefix = `.${basename(target)}.`;
  for (const name of names) {
    const owner = name.startsWith(prefix) ? /^(\d+)-[0-9a-f]{8}\.tmp$/.exec(name.slice(prefix.length)) : null;
    if (owner !== null && !isAlive(Number(owner[1]))) await rm(join(folder, name), { force: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as { code?: unknown }).code === "EPERM";
  }
}

async function sync(path: string): Promise<void> {
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** The recipe in a file's comment tag, or null when there is none that is a JSON object. */
export async function readComment(
  program: string,
  path: string,
  limits: Limits,
  signal?: AbortSignal,
): Promise<Record<string, unknown> | null> {
  await fileFacts(path);
  const args = [...quiet("error"), ...input(path, limits), "-f", "ffmetadata", "pipe:1"];
  await using child = spawnChild(program, args, { limits, cpuSeconds: 30, pipes: 1, signal });
  const parts: Uint8Array[] = [];
  for (let part = await child.read(0); part !== null; part = await child.read(0)) parts.push(part);
  const text = Buffer.concat(parts).toString("utf8");
  const ended = await child.finished();
  if (ended.code !== 0) throw readFailure(path, ended, signal);
  // Values escape = ; # \ and line ends by a backslash (ffmetadata, "Metadata" in the ffmpeg manual).
  const comment = /^comment=((?:\\[\s\S]|[^\\\n])*)/m.exec(text)?.[1]?.replace(/\\([\s\S])/g, "$1");
  if (comment === undefined) return null;
  try {
    const value: unknown = JSON.parse(comment);
    return value !== null && typeof value === "object" && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : null;
  } catch {
    return null; // someone else's comment
  }
}
