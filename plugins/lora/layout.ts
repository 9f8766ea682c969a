/**
 * What the keys of a LoRA file say: which layers, which tensors, at what strength. No tensors are read here.
 *
 * PEFT and diffusers: `transformer.blocks.0.attn1.to_q.lora_A.weight`, alpha in the header or in adapter_config.json.
 * The authors' names, as ComfyUI and DiffSynth write them: `diffusion_model.blocks.0.self_attn.q.lora_down.weight`, `.alpha`.
 * Kohya: `lora_unet_blocks_0_self_attn_q.lora_down.weight`, the layer's dots as underscores, `.alpha`.
 */
import { WaverError, z } from "../index.ts";

/** One layer's tensors, by their keys in the file. */
export interface LoraLayer {
  /** The layer as the file spells it. */
  readonly target: string;
  readonly down: string;
  readonly up: string;
  /** A tensor that holds alpha. */
  readonly alpha?: string | undefined;
  readonly bias?: string | undefined;
  /** A bias of PEFT's is part of the up projection and scaled with it; a `diff_b` only by the weight of the adapter. */
  readonly biasScaled?: boolean | undefined;
}

export interface LoraLayout {
  readonly layers: readonly LoraLayer[];
  /** Whole differences of weights that are not of low rank, which may only be zero. */
  readonly differences: readonly string[];
}

type Part = "down" | "up" | "alpha" | "bias" | "diff_b" | "diff";

const ENDINGS: readonly (readonly [RegExp, Part])[] = [
  [/\.lora_A(\.\w+)?\.weight$/, "down"],
  [/\.lora_B(\.\w+)?\.weight$/, "up"],
  [/\.lora_B(\.\w+)?\.bias$/, "bias"],
  [/[._]lora[._]down\.weight$/, "down"],
  [/[._]lora[._]up\.weight$/, "up"],
  [/\.alpha$/, "alpha"],
  [/\.diff_b$/, "diff_b"],
  [/\.diff$/, "diff"],
];

/** Relatives of LoRA with a formula of their own. */
const OTHERS: readonly (readonly [RegExp, string])[] = [
  [/\.(dora_scale|lora_magnitude_vector(\.\w+)?(\.weight)?)$/, "DoRA"],
  [/\.hada_/, "LoHa"],
  [/\.lokr_/, "LoKr"],
  [/\.oft_/, "OFT"],
];

const LISTED = 4;
export const listed = (keys: readonly string[]): string =>
  `${keys.slice(0, LISTED).join(", ")}${keys.length > LISTED ? `, and ${keys.length - LISTED} more` : ""}`;

export function layoutOf(keys: readonly string[], path: string): LoraLayout {
  const parts = new Map<string, Partial<Record<Part, string>>>();
  const unknown: string[] = [];
  for (const key of keys) {
    const other = OTHERS.find(([pattern]) => pattern.test(key));
    if (other !== undefined)
      throw new WaverError(
        "checkpoint_invalid",
        `${path} is a ${other[1]} (it holds ${key}), and only LoRA is read here`,
      );
    const ending = ENDINGS.find(([pattern]) => pattern.test(key));
    if (ending === undefined) unknown.push(key);
    else {
      const target = key.replace(ending[0], "");
      const found = parts.get(target) ?? {};
      if (found[ending[1]] !== undefined)
        throw new WaverError("checkpoint_invalid", `${path} holds ${found[ending[1]]} and ${key}, which say the same`, {
          hint: "a file with several adapters must be split into one each",
        });
      parts.set(target, { ...found, [ending[1]]: key });
    }
  }
  if (unknown.length > 0)
    throw new WaverError(
      "checkpoint_invalid",
      `${path} holds keys that are not a LoRA's (${unknown.length}): ${listed(unknown)}`,
      {
        hint: "a LoRA's keys end in lora_A.weight and lora_B.weight, or lora_down.weight, lora_up.weight and alpha",
      },
    );
  const layers: LoraLayer[] = [];
  const differences: string[] = [];
  for (const [target, { down, up, alpha, bias, diff_b, diff }] of parts) {
    if (diff !== undefined) differences.push(diff);
    if (down !== undefined && up !== undefined)
      layers.push({ target, down, up, alpha, bias: bias ?? diff_b, biasScaled: bias !== undefined });
    else if (down !== undefined || up !== undefined || alpha !== undefined || bias !== undefined)
      throw new WaverError(
        "checkpoint_invalid",
        `${path}: ${target} has ${listed([down, up, alpha, bias].filter((key) => key !== undefined))} only; a layer needs both its projections`,
      );
    else if (diff_b !== undefined) differences.push(diff_b);
  }
  if (layers.length === 0) throw new WaverError("checkpoint_invalid", `${path} holds no LoRA weights`);
  return { layers, differences };
}

/** PEFT's configuration, in a file's header or beside it. */
const Config = z.object({
  r: z.number().positive().optional(),
  lora_alpha: z.number().optional(),
  alpha_pattern: z.record(z.string(), z.number()).nullish(),
  use_rslora: z.boolean().nullish(),
  use_dora: z.boolean().nullish(),
});
export type PeftConfig = z.output<typeof Config>;

/** `raw`: PEFT's fields, each maybe behind the name of its component (`transformer.lora_alpha`). */
export function peftConfig(raw: unknown, path: string): PeftConfig {
  const fields = Object.entries(raw !== null && typeof raw === "object" ? raw : {}).map(([key, value]) => [
    key.slice(key.lastIndexOf(".") + 1),
    value,
  ]);
  const parsed = Config.safeParse(Object.fromEntries(fields));
  if (!parsed.success)
    throw new WaverError(
      "checkpoint_invalid",
      `the LoRA configuration of ${path} is wrong: ${z.prettifyError(parsed.error)}`,
    );
  if (parsed.data.use_dora === true)
    throw new WaverError("checkpoint_invalid", `${path} is a DoRA, and only LoRA is read here`);
  return parsed.data;
}

/** alpha / r, or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023); alpha is r where nothing says otherwise. */
export function strength(target: string, rank: number, config: PeftConfig, alpha: number | undefined): number {
  // a pattern is a regular expression that the end of a layer's name must match (PEFT, get_pattern_key)
  const pattern = Object.entries(config.alpha_pattern ?? {}).find(([key]) =>
    new RegExp(`(^|\\.)(${key})$`).test(target),
  );
  const numerator = alpha ?? pattern?.[1] ?? config.lora_alpha ?? rank;
  return numerator / (config.use_rslora === true ? Math.sqrt(rank) : rank);
}

/** Spellings of one layer come out equal: dots and underscores alike. */
const flat = (name: string): string => name.replaceAll(".", "_");
/** What stands before a layer's name, in one convention or another. */
const COMPONENT =
  /^(base_model_model_|model_)?(transformer_(?!\d)|diffusion_model_|lora_unet_|lora_transformer_|unet_)?/;

/** Finds layers of a network by any of their names. `layers`: own names, each with its aliases. */
export function resolver(layers: ReadonlyMap<string, readonly string[]>): (target: string) => string | undefined {
  const known = new Map<string, string>();
  for (const [own, aliases] of layers) for (const name of aliases) known.set(flat(name), own);
  for (const own of layers.keys()) known.set(flat(own), own);
  return (target) => known.get(flat(target)) ?? known.get(flat(target).replace(COMPONENT, ""));
}
