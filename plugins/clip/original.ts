/**
 * CLIP's vision tower outside Transformers: under the names of Wan's own code (wan/modules/clip.py of Wan 2.1), and as a single file
 * without a configuration, as ComfyUI keeps it.
 */
import { type Checkpoint, scope, type Tensor, type TensorInfo, type Weights } from "../../native/index.ts";
import { WaverError } from "../index.ts";
import { VisionConfig } from "./params.ts";

const VISION = "vision_model.";
/** Our names below a layer -> Wan's. */
const INSIDE: Readonly<Record<string, string>> = {
  layer_norm1: "norm1",
  layer_norm2: "norm2",
  "self_attn.out_proj": "attn.proj",
  "mlp.fc1": "mlp.0",
  "mlp.fc2": "mlp.2",
};
const THIRDS = ["q_proj", "k_proj", "v_proj"];

export const isOriginal = (file: Checkpoint): boolean => file.has("visual.cls_embedding");

/** Where one of our weights lies in Wan's file, and how it is cut out of what lies there. */
interface Place {
  readonly key: string;
  shape(stored: readonly number[]): readonly number[];
  take(stored: Tensor): Tensor;
}

const whole = (key: string): Place => ({ key, shape: (stored) => stored, take: (stored) => stored });
/** Without the first axis, which has one entry. */
const inner = (key: string): Place => ({
  key,
  shape: (stored) => stored.slice(1),
  take: (stored) => stored.squeeze(0),
});

/** One of three matrices that are stored as one. */
function third(key: string, which: number): Place {
  const rows = (stored: readonly number[]): number => (stored[0] as number) / 3;
  return {
    key,
    shape: (stored) => [rows(stored), ...stored.slice(1)],
    take: (stored) => stored.narrow(0, which * rows(stored.shape), rows(stored.shape)),
  };
}

/** Wan's place for a weight of a tower of `numLayers`; every one of ours has a place. */
function places(numLayers: number): Map<string, Place> {
  const found = new Map<string, Place>([
    [
      `${VISION}embeddings.class_embedding`,
      { ...inner("visual.cls_embedding"), shape: (s) => s.slice(2), take: (t) => t.flatten() },
    ],
    [`${VISION}embeddings.position_embedding.weight`, inner("visual.pos_embedding")],
    [`${VISION}embeddings.patch_embedding.weight`, whole("visual.patch_embedding.weight")],
    [
      "visual_projection.weight",
      { key: "visual.head", shape: ([a, b]) => [b as number, a as number], take: (t) => t.transpose(0, 1) },
    ],
  ]);
  const both = (ours: string, theirs: string): void => {
    for (const part of ["weight", "bias"]) found.set(`${VISION}${ours}.${part}`, whole(`visual.${theirs}.${part}`));
  };
  both("pre_layrnorm", "pre_norm");
  both("post_layernorm", "post_norm");
  for (let i = 0; i < numLayers; i++) {
    for (const [ours, theirs] of Object.entries(INSIDE))
      both(`encoder.layers.${i}.${ours}`, `transformer.${i}.${theirs}`);
    for (const [which, ours] of THIRDS.entries())
      for (const part of ["weight", "bias"])
        found.set(
          `${VISION}encoder.layers.${i}.self_attn.${ours}.${part}`,
          third(`visual.transformer.${i}.attn.to_qkv.${part}`, which),
        );
  }
  return found;
}

/** Layers of the tower in a file with Wan's names. */
function layersOf(file: Checkpoint): number {
  let numLayers = 0;
  while (file.has(`visual.transformer.${numLayers}.norm1.weight`)) numLayers++;
  return numLayers;
}

/** The vision tower of a file with Wan's names, by ours; the text tower beside it is left out. */
export function originalVision(file: Checkpoint): Weights {
  const known = places(layersOf(file));
  const placeOf = (name: string): Place => known.get(name) ?? whole(name);
  return {
    keys: [...known].filter(([, { key }]) => file.has(key)).map(([name]) => name),
    get: (name) => scope(() => placeOf(name).take(file.get(placeOf(name).key))),
    info(name): TensorInfo {
      const { key, shape } = placeOf(name);
      const { dtype, shape: stored, bytes } = file.info(key);
      const count = (sides: readonly number[]): number => sides.reduce((a, b) => a * b, 1);
      return { dtype, shape: shape(stored), bytes: (bytes / count(stored)) * count(shape(stored)) };
    },
  };
}

/** Towers by width and layers, where no file says their heads and activation: OpenAI's two, and OpenCLIP's ViT-H, which Wan ships. */
const KNOWN: Readonly<Record<string, Pick<VisionConfig, "num_attention_heads" | "hidden_act">>> = {
  "768 x 12": { num_attention_heads: 12, hidden_act: "quick_gelu" },
  "1024 x 24": { num_attention_heads: 16, hidden_act: "quick_gelu" },
  "1280 x 32": { num_attention_heads: 16, hidden_act: "gelu" },
};

/** The configuration of a tower that comes without one, from the shapes of its weights. */
export function knownTower(
  { keys, info }: Pick<Weights, "keys"> & { info(key: string): { shape: readonly number[] } },
  path: string,
): VisionConfig {
  const patches = `${VISION}embeddings.patch_embedding.weight`;
  if (!keys.includes(patches))
    throw new WaverError("checkpoint_invalid", `${path} holds no vision tower of CLIP`, {
      hint: "name a folder in Transformers' layout, or a file with the names of Transformers or of Wan",
    });
  const [hidden_size, num_channels, patch_size] = info(patches).shape as [number, number, number];
  const num_hidden_layers = keys.filter((key) => /\.layers\.\d+\.layer_norm1\.weight$/.test(key)).length;
  const kind = `${hidden_size} x ${num_hidden_layers}`;
  const known = KNOWN[kind];
  if (known === undefined)
    throw new WaverError(
      "checkpoint_invalid",
      `${path} has no config.json, and a tower of ${kind} layers is none that is known without`,
      {
        hint: `put its config.json beside it; known without are ${Object.keys(KNOWN).join(", ")}`,
      },
    );
  const positions = info(`${VISION}embeddings.position_embedding.weight`).shape[0] as number;
  return VisionConfig.parse({
    ...known,
    hidden_size,
    num_channels,
    patch_size,
    num_hidden_layers,
    intermediate_size: info(`${VISION}encoder.layers.0.mlp.fc1.weight`).shape[0],
    image_size: Math.sqrt(positions - 1) * patch_size,
    ...(keys.includes("visual_projection.weight") ? { projection_dim: info("visual_projection.weight").shape[0] } : {}),
  });
}
