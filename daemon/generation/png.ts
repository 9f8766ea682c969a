/** A PNG with its recipe in a text chunk, which image libraries here cannot write. */
import { rename, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { crc32, deflateSync } from "node:zlib";
import { PREVIEW } from "../wire.ts";

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);

/** Packed RGB rows -> the file. `comment` becomes an iTXt chunk (PNG 1.2, 4.2.3.3). */
export function encodePng(pixels: Uint8Array, width: number, height: number, comment?: string): Uint8Array {
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint8(8, 8); // bits a channel
  header.setUint8(9, 2); // RGB
  const rows = new Uint8Array((width * 3 + 1) * height); // each begins with its filter, 0 for none
  for (let y = 0; y < height; y++)
    rows.set(pixels.subarray(y * width * 3, (y + 1) * width * 3), y * (width * 3 + 1) + 1);
  const chunks = [chunk("IHDR", new Uint8Array(header.buffer))];
  // keyword, then five zero bytes: end of keyword, not compressed, no method, no language, no translation
  if (comment !== undefined)
    chunks.push(chunk("iTXt", Buffer.concat([Buffer.from("Comment"), Buffer.alloc(5), Buffer.from(comment, "utf8")])));
  chunks.push(chunk("IDAT", deflateSync(rows)), chunk("IEND", new Uint8Array()));
  return Buffer.concat([SIGNATURE, ...chunks]);
}

function chunk(type: string, data: Uint8Array): Uint8Array {
  const body = Buffer.concat([Buffer.from(type, "latin1"), data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(data.length, 0);
  body.copy(framed, 4);
  framed.writeUInt32BE(crc32(body), body.length + 4);
  return framed;
}

/** The picture that whoever watches the job is shown; the next one takes its place. */
export async function writePreview(
  workDir: string,
  { pixels, width, height }: { pixels: Uint8Array; width: number; height: number },
): Promise<void> {
  const path = join(workDir, PREVIEW);
  await writeFile(`${path}.tmp`, encodePng(pixels, width, height));
  await rename(`${path}.tmp`, path);
}
