/**
 * Wan as its authors publish it, read as the pipeline that it is: their repositories' folders (Wan 2.1 T2V, I2V and FLF2V, Wan
 * 2.2 A14B and TI2V), and a transformer's single file in ComfyUI's tree of models. Sizes, steps and shifts are those of the
 * authors' own generate.py and configs.
 */
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { type ForeignModel, WaverError, z } from "../index.ts";

const WEIGHTS = "(pth|safetensors)";
/** What the authors call the parts, and what ComfyUI does. */
const TEXT = new RegExp(`^models_t5_umt5.*\\.${WEIGHTS}$`);
const IMAGE = new RegExp(`^models_clip_.*\\.${WEIGHTS}$`);
const VAE = new RegExp(`^Wan2\\.[12]_VAE\\.${WEIGHTS}$`, "i");
const NETWORK = /^diffusion_pytorch_model.*\.safetensors(\.index\.json)?$/;
const TOKENIZER = "google/umt5-xxl";
/** The two denoisers of Wan 2.2 A14B. */
const EXPERTS = ["high_noise_model", "low_noise_model"] as const;

/** The authors' config.json: of what it does, only the kind is needed here. */
const Stated = z.object({ model_type: z.enum(["t2v", "i2v", "flf2v", "ti2v"]), in_dim: z.int().optional() });
type Kind = z.output<typeof Stated>["model_type"];

/** wan/configs and generate.py: shift, steps, frames a second; of two denoisers, where the second begins. */
interface Habits {
  readonly shift: number;
  readonly numSteps: number;
  readonly size?: { readonly width: number; readonly height: number; readonly numFrames: number; readonly fps: number };
  readonly boundary?: number;
}

function habitsOf(kind: Kind, isPair: boolean, name: string): Habits {
  const large = { width: 1280, height: 720, numFrames: 81, fps: 16 };
  if (isPair)
    return kind === "t2v"
      ? { shift: 12, numSteps: 40, size: large, boundary: 0.875 }
      : { shift: 5, numSteps: 40, size: large, boundary: 0.9 };
  if (kind === "ti2v") return { shift: 5, numSteps: 50, size: { width: 1280, height: 704, numFrames: 121, fps: 24 } };
  const size = /720p/i.test(name) ? { size: large } : {};
  if (kind === "flf2v") return { shift: 16, numSteps: 50, ...size };
  if (kind === "i2v") return { shift: /480p/i.test(name) ? 3 : 5, numSteps: 40, ...size };
  return { shift: 5, numSteps: 50, ...size };
}

/** The folder of a repository of Wan's authors; null for anything else. */
export function authorsFolder(folder: string): ForeignModel | null {
  if (!existsSync(folder) || !statSync(folder).isDirectory()) return null;
  const names = readdirSync(folder);
  const isPair = EXPERTS.every((each) => names.includes(each));
  const networks = isPair ? EXPERTS.map((each) => join(folder, each)) : [folder];
  const stated = kindOf(networks[0] as string);
  const one = (pattern: RegExp): string | undefined => preferred(names.filter((name) => pattern.test(name)));
  const [text, vae] = [one(TEXT), one(VAE)];
  if (stated === null || (text === undefined && vae === undefined)) return null;
  const missing = (what: string): never => {
    throw new WaverError("checkpoint_missing", `${folder} is Wan's own folder without ${what}`, {
      hint: 'fetch the whole repository; `waver pull` takes such files with --include "*" only',
    });
  };
  if (!existsSync(join(folder, TOKENIZER))) missing(`its tokenizer, ${TOKENIZER}/`);
  // Wan 2.2's I2V reads no picture through CLIP, and its folder has none
  const image =
    stated === "t2v" || stated === "ti2v" || isPair ? undefined : (one(IMAGE) ?? missing("models_clip_*.pth"));
  const paths = {
    transformer: networkIn(networks[0] as string) ?? missing("diffusion_pytorch_model*.safetensors"),
    transformer_2: isPair ? (networkIn(networks[1] as string) ?? missing("the weights of low_noise_model")) : undefined,
    text_encoder: join(folder, text ?? missing("models_t5_umt5*.pth")),
    vae: join(folder, vae ?? missing("Wan2.1_VAE.pth")),
    image_encoder: image === undefined ? undefined : join(folder, image),
  };
  return pipelineOf(stated, isPair, basename(folder), { ...paths, tokenizer: join(folder, TOKENIZER) });
}

interface Paths {
  readonly transformer: string;
  readonly transformer_2?: string | undefined;
  readonly text_encoder: string;
  readonly vae: string;
  readonly image_encoder?: string | undefined;
  readonly tokenizer: string;
}

function pipelineOf(kind: Kind, isPair: boolean, name: string, { tokenizer, ...paths }: Paths): ForeignModel {
  const { shift, numSteps, size, boundary } = habitsOf(kind, isPair, name);
  const transformer = ["diffusers", "WanTransformer3DModel"];
  const heldFixed = kind === "ti2v";
  const expands = heldFixed ? { options: { expandTimesteps: true } } : { options: {} };
  const at = (path: string): { path: string; options: Record<string, unknown> } => ({ path, options: {} });
  return {
    index: {
      _class_name: kind === "t2v" || kind === "ti2v" ? "WanPipeline" : "WanImageToVideoPipeline",
      _waver: { defaults: { numSteps, ...size } },
      transformer,
      ...(paths.transformer_2 === undefined ? {} : { transformer_2: transformer, boundary_ratio: boundary }),
      ...(heldFixed ? { expand_timesteps: true } : {}),
      text_encoder: ["transformers", "UMT5EncoderModel"],
      vae: ["diffusers", "AutoencoderKLWan"],
      ...(paths.image_encoder === undefined ? {} : { image_encoder: ["transformers", "CLIPVisionModel"] }),
      scheduler: ["diffusers", "UniPCMultistepScheduler"],
    },
    components: {
      transformer: { path: paths.transformer, ...expands },
      ...(paths.transformer_2 === undefined ? {} : { transformer_2: { path: paths.transformer_2, ...expands } }),
      text_encoder: { path: paths.text_encoder, options: { tokenizer } },
      vae: at(paths.vae),
      ...(paths.image_encoder === undefined ? {} : { image_encoder: at(paths.image_encoder) }),
      scheduler: {
        // wan/utils/fm_solvers_unipc.py: order 2, bh2, on the flow's own sigmas
        options: { config: { _class_name: "UniPCMultistepScheduler", ...SOLVER, flow_shift: shift } },
      },
    },
  };
}

const SOLVER = { prediction_type: "flow_prediction", use_flow_sigmas: true, solver_order: 2, solver_type: "bh2" };

/** What the config.json of a network says it does; null where it is not the authors'. */
function kindOf(folder: string): Kind | null {
  try {
    const { model_type } = Stated.parse(JSON.parse(readFileSync(join(folder, "config.json"), "utf8")));
    return model_type;
  } catch {
    return null; // no config.json, or another's
  }
}

/** The index of a network in shards, or its one file. */
function networkIn(folder: string): string | undefined {
  const names = existsSync(folder) ? readdirSync(folder).filter((name) => NETWORK.test(name)) : [];
  const found = names.find((name) => name.endsWith(".index.json")) ?? (names.length === 1 ? names[0] : undefined);
  return found === undefined ? undefined : join(folder, found);
}

/** Of one part in two forms, the one that is read as it is. */
const preferred = (names: readonly string[]): string | undefined =>
  names.find((name) => name.endsWith(".safetensors")) ?? names[0];

/** Folder of a network's file in ComfyUI's tree, older and newer. */
const COMFY_NETWORKS = ["diffusion_models", "unet"];

/** A transformer's file in ComfyUI's tree (models/diffusion_models, text_encoders, vae, clip_vision); null for anything else. */
export function comfyFile(path: string): ForeignModel | null {
  if (!path.endsWith(".safetensors") || !existsSync(path) || !statSync(path).isFile()) return null;
  let folder = dirname(path);
  while (!COMFY_NETWORKS.includes(basename(folder)) && dirname(folder) !== folder) folder = dirname(folder);
  const name = basename(path);
  if (!COMFY_NETWORKS.includes(basename(folder)) || !/wan/i.test(name)) return null;
  const models = dirname(folder);
  const [, kind = "t2v"] = /(ti2v|flf2v|i2v|t2v)/i.exec(name.replace(/^.*?wan/i, "")) ?? [];
  const of = kind.toLowerCase() as Kind;
  const find = (folders: readonly string[], pattern: RegExp, what: string): string => {
    for (const each of folders) {
      const below = join(models, each);
      const found = existsSync(below) ? readdirSync(below).filter((name) => pattern.test(name)) : [];
      if (found[0] !== undefined) return join(below, found.sort()[0] as string);
    }
    throw new WaverError(
      "checkpoint_missing",
      `${name} stands in ComfyUI's tree of models, and ${what} in none of ${folders.map((each) => join(models, each)).join(", ")}`,
    );
  };
  if (/(high|low)_noise/i.test(name))
    throw new WaverError("checkpoint_invalid", `${name} is one of two denoisers, which no single file stands for`, {
      hint: "name a pipeline's folder as model, and these files with --component transformer=HIGH --component transformer_2=LOW",
    });
  const vae = of === "ti2v" ? /^wan2\.2_vae.*\.safetensors$/i : /^wan_?2\.1_vae.*\.safetensors$/i;
  const text = find(
    ["text_encoders", "clip"],
    /^umt5(?!.*fp8).*\.safetensors$/i,
    "an umT5 in bf16 or fp16 (umt5*.safetensors)",
  );
  const tokenizer = [join(dirname(text), "umt5-xxl"), join(models, "tokenizer"), dirname(text)].find((each) =>
    existsSync(join(each, "tokenizer.json")),
  );
  if (tokenizer === undefined)
    throw new WaverError("checkpoint_missing", `no tokenizer.json of umT5 stands beside ${text}`, {
      hint: `put the folder google/umt5-xxl of Wan's repository there, as ${join(dirname(text), "umt5-xxl")}`,
    });
  return pipelineOf(of, false, name, {
    transformer: path,
    text_encoder: text,
    vae: find(["vae"], vae, "a Wan VAE"),
    image_encoder:
      of === "i2v" || of === "flf2v"
        ? find(["clip_vision"], /^clip_vision_h.*\.safetensors$/i, "clip_vision_h")
        : undefined,
    tokenizer,
  });
}
