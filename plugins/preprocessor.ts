/**
 * How a vision model's checkpoint wants its images: `preprocessor_config.json` of Transformers, in the old form (`size` a
 * number) and the new (`size` an object), alone or inside a `processor_config.json`. The settings are what
 * `preprocessImages` of the engine takes.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import type { ImageSettings } from "../native/index.ts";
import { WaverError } from "./errors.ts";

const Pixels = z.int().positive();
const Sides = z.object({ height: Pixels, width: Pixels });
const Levels = z.array(z.number()).min(1);

const Preprocessor = z.object({
  do_resize: z.boolean().nullish(),
  size: z.union([Pixels, z.object({ shortest_edge: Pixels }), Sides]).nullish(),
  /** PIL's number of the filter. */
  resample: z.int().nullish(),
  do_center_crop: z.boolean().nullish(),
  crop_size: z.union([Pixels, Sides]).nullish(),
  do_rescale: z.boolean().nullish(),
  rescale_factor: z.number().positive().nullish(),
  do_normalize: z.boolean().nullish(),
  image_mean: Levels.nullish(),
  image_std: Levels.nullish(),
});

/** PIL's filters; Transformers' torchvision processors take bicubic for Lanczos. */
const FILTERS: Readonly<Record<number, ImageSettings["resample"]>> = {
  0: "nearest-exact",
  1: "bicubic",
  2: "bilinear",
  3: "bicubic",
};

/**
 * Settings of the first folder that has some, completed by the defaults of the processor's class; those alone when none has.
 * A bare number for `size` is the shorter side when the default resizes by it, else both sides.
 */
export function readPreprocessor(folders: readonly string[], defaults: ImageSettings): ImageSettings {
  for (const folder of folders) {
    for (const name of ["preprocessor_config.json", "processor_config.json"]) {
      const path = join(folder, name);
      if (!existsSync(path)) continue;
      const file = parse(path);
      const own = name === "processor_config.json" ? (file as { image_processor?: unknown }).image_processor : file;
      if (own === undefined) continue;
      const parsed = Preprocessor.safeParse(own);
      if (!parsed.success) throw new WaverError("checkpoint_invalid", `${path}: ${z.prettifyError(parsed.error)}`);
      return settingsOf(path, parsed.data, defaults);
    }
  }
  return defaults;
}

function settingsOf(path: string, file: z.output<typeof Preprocessor>, defaults: ImageSettings): ImageSettings {
  const resample = file.resample == null ? defaults.resample : FILTERS[file.resample];
  if (resample === undefined)
    throw new WaverError("checkpoint_invalid", `${path}: resample ${file.resample} is a filter that is not supported`, {
      hint: "nearest (0), Lanczos (1), bilinear (2) and bicubic (3) are",
    });
  const byEdge = defaults.resize === null || "shortestEdge" in defaults.resize;
  const { size, crop_size: crop } = file;
  const resize =
    size == null
      ? defaults.resize
      : typeof size === "number"
        ? byEdge
          ? { shortestEdge: size }
          : { height: size, width: size }
        : "shortest_edge" in size
          ? { shortestEdge: size.shortest_edge }
          : size;
  const cut = crop == null ? defaults.crop : typeof crop === "number" ? { height: crop, width: crop } : crop;
  const chosen = <T>(flag: boolean | null | undefined, byDefault: boolean, value: T): T | null =>
    (flag ?? byDefault) ? value : null;
  return {
    resample,
    resize: chosen(file.do_resize, defaults.resize !== null, resize),
    crop: chosen(file.do_center_crop, defaults.crop !== null, cut),
    rescale: chosen(file.do_rescale, defaults.rescale !== null, file.rescale_factor ?? defaults.rescale ?? 1 / 255),
    normalize: chosen(file.do_normalize, defaults.normalize !== null, {
      mean: file.image_mean ?? defaults.normalize?.mean ?? [0.5, 0.5, 0.5],
      std: file.image_std ?? defaults.normalize?.std ?? [0.5, 0.5, 0.5],
    }),
  };
}

function parse(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8"));
  } catch (cause) {
    throw new WaverError("checkpoint_invalid", `${path} is not JSON`, { cause });
  }
}
