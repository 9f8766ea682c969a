/**
 * One-way converter: a .pth file in, a safetensors file out. Run as a child with an empty environment
 * (`bun converter.ts IN OUT`), so that even a flaw in the reader meets a process that owns nothing.
 */
import { closeSync, fsyncSync, openSync, renameSync, rmSync, writeSync } from "node:fs";
import { FileBytes } from "./archive.ts";
import { toWaverError, WaverError } from "./errors.ts";
import { contiguous, readPth } from "./pth.ts";

export interface Converted {
  readonly numTensors: number;
  readonly bytes: number;
}

/** Writes every tensor of `input` to `output`, whole or not at all. */
export function convertPth(input: string, output: string): Converted {
  using file = new FileBytes(input);
  const pth = readPth(file);
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  let end = 0;
  for (const [name, entry] of pth.tensors) {
    const size = entry.numel * entry.storage.elementBytes;
    Object.defineProperty(header, name, {
      value: { dtype: entry.storage.dtype, shape: entry.shape, data_offsets: [end, end + size] },
      enumerable: true,
    });
    end += size;
  }
  const json = JSON.stringify(header);
  // The format wants the data aligned to 8; spaces after the JSON are its own padding.
  const text = new TextEncoder().encode(json.padEnd(json.length + ((8 - (Buffer.byteLength(json) % 8)) % 8)));
  const partial = `${output}.partial`;
  const fd = openSync(partial, "w");
  try {
    const length = new Uint8Array(8);
    new DataView(length.buffer).setBigUint64(0, BigInt(text.length), true);
    for (const piece of [length, text]) writeAll(fd, piece);
    for (const entry of pth.tensors.values()) writeAll(fd, contiguous(entry, pth.storage(entry.storage)));
    fsyncSync(fd);
  } catch (error) {
    rmSync(partial, { force: true });
    throw error;
  } finally {
    closeSync(fd);
  }
  renameSync(partial, output);
  return { numTensors: pth.tensors.size, bytes: 8 + text.length + end };
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) done += writeSync(fd, bytes, done, bytes.length - done);
}

/** The same in a child of its own: no environment, a time limit, and its answer read as data. */
export async function convertInChild(input: string, output: string, signal: AbortSignal): Promise<Converted> {
  signal.throwIfAborted();
  const child = Bun.spawn([process.execPath, import.meta.path, input, output], {
    env: {},
    stdin: "ignore",
    stdout: "pipe",
    stderr: "ignore",
    signal,
    timeout: 10 * 60_000,
  });
  const [answer, code] = await Promise.all([new Response(child.stdout).text(), child.exited]);
  signal.throwIfAborted();
  let body: unknown;
  try {
    body = JSON.parse(answer);
  } catch {
    throw new WaverError("checkpoint_invalid", `converting ${input} ended with code ${code}`, {
      hint: "fetch the file again",
    });
  }
  const { ok, error } = body as { ok?: Converted; error?: Parameters<typeof WaverError.fromBody>[0] };
  if (error) throw WaverError.fromBody(error);
  return ok as Converted;
}

if (import.meta.main) {
  const [input, output] = process.argv.slice(2) as [string, string];
  let answer: unknown;
  try {
    answer = { ok: convertPth(input, output) };
  } catch (error) {
    answer = { error: toWaverError(error).toBody() };
  }
  process.stdout.write(JSON.stringify(answer));
}
