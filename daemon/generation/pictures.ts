/** The pictures that a video starts from and ends with. */
import type { Context, FrameBatch } from "../../plugins/index.ts";
import { resizeImage } from "../media/resize.ts";
import type { GenerateInput, Size } from "./request.ts";

export interface Picture {
  readonly at: "first" | "last";
  /** In its own size: image encoders have theirs. */
  readonly image: FrameBatch;
}

/** As they are on disk, first before last. */
export async function readPictures({ image, lastImage }: GenerateInput, ctx: Context): Promise<Picture[]> {
  const given = [
    { at: "first" as const, path: image },
    { at: "last" as const, path: lastImage },
  ];
  const pictures: Picture[] = [];
  for (const { at, path } of given) if (path !== undefined) pictures.push({ at, image: await ctx.media.image(path) });
  return pictures;
}

/** How much a picture may change its shape before a person should be told, as a ratio of ratios. */
const NOTICED = 1.1;

/** In the size of the video, with the frames they are. */
export function placePictures(
  pictures: readonly Picture[],
  size: Size,
  fit: GenerateInput["imageFit"],
  ctx: Context,
): { readonly at: number; readonly image: FrameBatch }[] {
  return pictures.map(({ at, image }) => {
    const change = image.width / image.height / (size.width / size.height);
    if (fit === "stretch" && Math.max(change, 1 / change) > NOTICED)
      ctx.log("image_stretched", {
        level: "warn",
        from: `${image.width}x${image.height}`,
        to: `${size.width}x${size.height}`,
        hint: "give width and height of the image's shape, or set imageFit to cover",
      });
    return { at: at === "first" ? 0 : size.numFrames - 1, image: resizeImage(image, size, fit) };
  });
}
