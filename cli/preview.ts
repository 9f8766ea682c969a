/** A small picture in a terminal: half blocks in true colour, two pixels a character. */
import { inflateSync } from "node:zlib";

interface Picture {
  readonly width: number;
  readonly height: number;
  /** Packed RGB. */
  readonly pixels: Uint8Array;
}

const SIGNATURE = "89504e470d0a1a0a";

/** A PNG of the daemon's making: 8 bits RGB, rows without filters. Null for any other: no picture is better than a wrong one. */
export function pictureOf(png: Uint8Array): Picture | null {
  const bytes = Buffer.from(png);
  if (bytes.subarray(0, 8).toString("hex") !== SIGNATURE) return null;
  const data: Uint8Array[] = [];
  let [width, height] = [0, 0];
  for (let at = 8; at + 12 <= bytes.length; at += 12 + bytes.readUInt32BE(at)) {
    const [type, body] = [
      bytes.toString("latin1", at + 4, at + 8),
      bytes.subarray(at + 8, at + 8 + bytes.readUInt32BE(at)),
    ];
    if (type === "IHDR") {
      [width, height] = [body.readUInt32BE(0), body.readUInt32BE(4)];
      if (body[8] !== 8 || body[9] !== 2 || body[12] !== 0) return null;
    }
    if (type === "IDAT") data.push(body);
  }
  if (width * height === 0 || width * height > 4e6) return null;
  let rows: Uint8Array;
  try {
    rows = inflateSync(Buffer.concat(data), { maxOutputLength: (3 * width + 1) * height });
  } catch {
    return null; // cut off, or not what its header says
  }
  if (rows.length !== (3 * width + 1) * height) return null;
  const pixels = new Uint8Array(3 * width * height);
  for (let y = 0; y < height; y++) {
    const from = y * (3 * width + 1);
    if (rows[from] !== 0) return null;
    pixels.set(rows.subarray(from + 1, from + 1 + 3 * width), y * 3 * width);
  }
  return { width, height, pixels };
}

/** Lines of at most `columns` x `lines` characters, the picture's sides kept in proportion. */
export function pictureLines({ width, height, pixels }: Picture, columns: number, lines: number): string[] {
  const scale = Math.min(columns / width, (2 * lines) / height);
  const [across, down] = [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round((height * scale) / 2))];
  const colour = (x: number, y: number): string => {
    const at =
      3 *
      (Math.min(height - 1, Math.floor(((y + 0.5) * height) / (2 * down))) * width +
        Math.min(width - 1, Math.floor(((x + 0.5) * width) / across)));
    return `${pixels[at]};${pixels[at + 1]};${pixels[at + 2]}`;
  };
  return Array.from({ length: down }, (_, row) => {
    const cells = Array.from(
      { length: across },
      (_, x) => `\u001b[38;2;${colour(x, 2 * row)};48;2;${colour(x, 2 * row + 1)}m\u2580`,
    );
    return `${cells.join("")}\u001b[0m`;
  });
}

/** Terminals that say they show true colour. */
export const showsPictures = (env: Readonly<Record<string, string | undefined>> = process.env): boolean =>
  /^(truecolor|24bit)$/i.test(env["COLORTERM"] ?? "");
