/**
 * What a file that cannot be used is told: one sentence and a code. A decoder's own words are matched here and go no
 * further, since they have leaked addresses elsewhere (CVE-2026-22778).
 */
import { access, constants, stat } from "node:fs/promises";
import { basename } from "node:path";
import { WaverError } from "../../plugins/errors.ts";

export interface FileFacts {
  readonly bytes: number;
  /** Changes when the file is replaced or written. */
  readonly version: string;
}

/** Facts of a readable, non-empty file; throws media_missing, media_empty or media_unreadable. */
export async function fileFacts(path: string): Promise<FileFacts> {
  const name = basename(path);
  let facts: Awaited<ReturnType<typeof stat>>;
  try {
    facts = await stat(path);
  } catch (cause) {
    const code = (cause as { code?: unknown }).code;
    if (code === "ENOENT" || code === "ENOTDIR")
      throw new WaverError("media_missing", `${name} does not exist`, { cause, hint: "check the path" });
    throw denied(name, cause);
  }
  await access(path, constants.R_OK).catch((cause: unknown) => {
    throw denied(name, cause);
  });
  if (facts.isDirectory())
    throw new WaverError("media_unreadable", `${name} is a folder, not a file`, { hint: "name a file in it" });
  if (!facts.isFile()) throw new WaverError("media_unreadable", `${name} is not a regular file`);
  if (facts.size === 0)
    throw new WaverError("media_empty", `${name} is empty (0 bytes)`, { hint: "copy or download the file again" });
  return { bytes: facts.size, version: `${facts.dev}:${facts.ino}:${facts.size}:${facts.mtimeMs}` };
}

const denied = (name: string, cause: unknown): WaverError =>
  new WaverError("media_unreadable", `${name} may not be read by this user`, {
    cause,
    hint: "check the permissions of the file and its folders",
  });

export interface Ended {
  readonly code: number;
  readonly stderr: string;
  readonly killed: "abort" | "stall" | null;
}

/** The verdict on a read that did not succeed. */
export function readFailure(path: string, ended: Ended, signal?: AbortSignal): WaverError {
  const name = basename(path);
  if (ended.killed === "abort" || signal?.aborted) return cancelled();
  if (ended.killed === "stall")
    return new WaverError("media_unreadable", `reading ${name} stopped making progress`, {
      hint: "the file may be damaged: convert it again from its source",
    });
  if (/matches no streams/.test(ended.stderr))
    return new WaverError("media_unreadable", `${name} holds no video`, { hint: "name a file with a video stream" });
  if (/exceeds? max|[Pp]icture size .* is invalid|too large/.test(ended.stderr)) return tooLarge(name);
  if (/No such file or directory/.test(ended.stderr))
    return new WaverError("media_missing", `${name} does not exist`, { hint: "check the path" });
  return new WaverError("media_unreadable", `${name} is not a video that can be decoded`, {
    hint: "it may be damaged, cut short or of another type than its name says",
  });
}

export const tooLarge = (name: string): WaverError =>
  new WaverError("media_too_large", `the frames of ${name} have more pixels than is allowed`, {
    hint: "scale the video down first",
  });

export const cancelled = (): WaverError => new WaverError("cancelled", "the job was cancelled");

export function throwIfCancelled(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw cancelled();
}

/** The verdict on a write that did not succeed. */
export function writeFailure(path: string, ended: Ended, signal?: AbortSignal): WaverError {
  const name = basename(path);
  if (ended.killed === "abort" || signal?.aborted) return cancelled();
  if (/No space left on device|Disk quota exceeded/.test(ended.stderr)) return diskFull(name);
  if (/Permission denied|Read-only file system/.test(ended.stderr))
    return new WaverError("invalid_input", `${name} may not be written there`, {
      hint: "choose a folder you may write to",
    });
  if (ended.killed === "stall") return new WaverError("internal", `encoding ${name} stopped making progress`);
  if (/Unknown encoder/.test(ended.stderr))
    return new WaverError("tool_missing", "this ffmpeg cannot write H.264", {
      hint: "install an ffmpeg with libx264, or set WAVER_FFMPEG to one",
    });
  return new WaverError("internal", `${name} could not be encoded`);
}

export const diskFull = (name: string, cause?: unknown): WaverError =>
  new WaverError("disk_full", `the disk is full: ${name} was not written`, {
    ...(cause === undefined ? {} : { cause }),
    hint: "free some space, then run the same command again: it goes on where it stopped",
  });
