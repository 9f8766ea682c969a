/** Folders of SigLIP in Transformers' layout: the vision tower, or both, from whichever holds it. */
import {
  bytesOf,
  type DType,
  type ImageSettings,
  openCheckpoint,
  type Placement,
  visionTowerOf,
  wholeOf,
} from "../../native/index.ts";
import { readPreprocessor, WaverError, z } from "../index.ts";
import { readJson } from "../language.ts";
import { Siglip, SiglipVision } from "./model.ts";
import { SiglipConfig, VisionConfig } from "./params.ts";

const Kind = z.object({
  architectures: z.array(z.string()).nullish(),
  model_type: z.string().nullish(),
  vision_config: z.unknown().optional(),
});

interface Folder {
  readonly vision: VisionConfig;
  /** Absent where the folder holds the vision tower alone. */
  readonly whole: SiglipConfig | undefined;
}

export function readConfig(folder: string): Folder {
  const read = <S extends z.ZodType>(schema: S): z.output<S> =>
    readJson(folder, "config.json", schema, "a SigLIP model");
  const { architectures, model_type, vision_config } = read(Kind);
  const name = architectures?.[0] ?? model_type ?? "";
  // Siglip2Model of variable resolution is another network; SigLIP 2 of fixed resolution calls itself SiglipModel
  if (!/^siglip(?!2)/i.test(name))
    throw new WaverError(
      "checkpoint_invalid",
      `${folder} holds ${name === "" ? "no model that is named" : `a ${name}`}, not SigLIP`,
    );
  if (vision_config == null) return { vision: read(VisionConfig), whole: undefined };
  const whole = read(SiglipConfig);
  return { vision: whole.vision_config, whole };
}

/** Bytes of the vision tower's weights, from the headers alone. */
export function visionBytes(folder: string, dtype?: DType): number {
  using file = openCheckpoint(folder);
  return bytesOf(visionTowerOf(file), dtype);
}

export function loadVision(folder: string, settings: Placement): { model: SiglipVision; config: VisionConfig } {
  const { vision: config } = readConfig(folder);
  using file = openCheckpoint(folder);
  return { model: new SiglipVision(config).load(visionTowerOf(file), settings), config };
}

/** Both towers. */
export function loadSiglip(folder: string, settings: Placement): { model: Siglip; config: SiglipConfig } {
  const { whole } = readConfig(folder);
  if (whole === undefined)
    throw new WaverError(
      "checkpoint_invalid",
      `${folder} holds SigLIP's vision tower alone; texts need the whole model`,
    );
  using file = openCheckpoint(folder);
  return { model: new Siglip(whole).load(wholeOf(file), settings), config: whole };
}

/** How images reach the tower: SiglipImageProcessor squeezes them into a square. */
export function imageSettings(folder: string, { image_size }: VisionConfig): ImageSettings {
  return readPreprocessor([folder], {
    resize: { height: image_size, width: image_size },
    resample: "bicubic",
    crop: null,
    rescale: 1 / 255,
    normalize: { mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5] },
  });
}
