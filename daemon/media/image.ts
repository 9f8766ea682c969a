/** Still images as packed RGB. */
import { basename } from "node:path";
import { WaverError } from "../../plugins/errors.ts";
import type { FrameBatch } from "../../plugins/types.ts";
import type { Limits } from "./ffmpeg.ts";
import { fileFacts, tooLarge } from "./verdict.ts";

/** Bitmaps only: SVG and PDF renderers read other files and load fonts. */
const FORMATS: ReadonlySet<string> = new Set(["jpeg", "png", "webp", "gif", "tiff", "heif", "jp2k", "ppm"]);

/** The image as one frame; scaled to cover width x height, middle kept, when given. Transparency shows white. */
export async function readImage(
  path: string,
  size: { width: number; height: number } | undefined,
  limits: Limits,
): Promise<FrameBatch> {
  await fileFacts(path);
  const { default: sharp } = await import("sharp");
  const open = () =>
    sharp(path, { limitInputPixels: limits.maxPixels, failOn: "error", sequentialRead: true, pages: 1 });
  try {
    const { format, width, height } = await open().metadata();
    if (!FORMATS.has(format))
      throw new WaverError("unsupported_media_type", `${basename(path)} is not an image of a known kind`, {
        hint: "use PNG, JPEG or WebP",
      });
    if (width * height > limits.maxPixels) throw tooLarge(basename(path));
    const turned = open().rotate().flatten({ background: "#ffffff" }).toColourspace("srgb").removeAlpha();
    const scaled =
      size === undefined
        ? turned
        : turned.resize(size.width, size.height, { fit: "cover", position: "centre", kernel: "cubic" });
    const { data, info } = await scaled.raw({ depth: "uchar" }).toBuffer({ resolveWithObject: true });
    return {
      data: new Uint8Array(data.buffer, data.byteOffset, data.length),
      count: 1,
      width: info.width,
      height: info.height,
      format: "rgb24",
      times: [0],
    };
  } catch (cause) {
    if (cause instanceof WaverError) throw cause;
    if (cause instanceof Error && /pixel limit/.test(cause.message)) throw tooLarge(basename(path));
    throw new WaverError("media_unreadable", `${basename(path)} is not an image that can be read`, {
      cause,
      hint: "it may be damaged or of another type than its name says",
    });
  }
}
