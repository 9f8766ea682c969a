/** A text encoder as the contract wants it: texts in, states and mask out. */
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  bytesOf,
  type Checkpoint,
  type Device,
  type DType,
  formFor,
  Generator,
  hasWeights,
  offloadedBytes,
  openCheckpoint,
  pad,
  saveSafetensors,
  scope,
  tensor,
  type WeightForm,
  type Weights,
  weightsOf,
} from "../../native/index.ts";

import { type Conditioning, type TextEncoder as Contract, WaverError, z } from "../index.ts";
import { UnigramTokenizer } from "../unigram.ts";
import { cleanPrompt } from "./clean.ts";
import { T5Encoder } from "./model.ts";
import { isOriginal, ourName, toldByWeights } from "./original.ts";
import { biasInEveryLayer, T5Config } from "./params.ts";

export interface Settings {
  readonly device: Device;
  readonly dtype?: DType | undefined;
  /** Longer prompts are cut, the end token kept. */
  readonly maxTokens: number;
  /** Folder of tokenizer.json. */
  readonly tokenizer?: string | undefined;
  readonly clean: boolean;
  /** What most weights of the blocks are kept in. */
  readonly weights?: WeightForm | undefined;
  /** Weights of the blocks are on the device around their turns only. */
  readonly offload?: boolean | undefined;
}

const WEIGHTS = "model.safetensors";
/** ComfyUI keeps the tokenizer's own file among the weights. */
const SENTENCEPIECE = "spiece_model";

export function readConfig(folder: string): T5Config {
  const path = join(folder, "config.json");
  if (!existsSync(path))
    throw new WaverError("checkpoint_missing", `${folder} holds no config.json`, {
      hint: "path must name the folder of a text encoder, for instance MODEL/text_encoder",
    });
  const parsed = T5Config.safeParse(JSON.parse(readFileSync(path, "utf8")));
  if (!parsed.success) throw new WaverError("checkpoint_invalid", `${path}: ${z.prettifyError(parsed.error)}`);
  return parsed.data;
}

/** The tokenizer beside an encoder: in its own folder, or in MODEL/tokenizer beside MODEL/text_encoder. */
function tokenizerFolder(folder: string): string {
  const candidates = [folder, join(dirname(folder), "tokenizer")];
  return candidates.find((candidate) => existsSync(join(candidate, "tokenizer.json"))) ?? folder;
}

/** What an encoder needs of a checkpoint: whole T5 models bring a decoder too, some name the embedding twice. */
export function encoderWeights(weights: Checkpoint): Weights & Disposable {
  if (isOriginal(weights)) return weightsOf(weights, ourName);
  const twin = "encoder.embed_tokens.weight";
  const at = (key: string): string => (key === "shared.weight" && !weights.has(key) ? twin : key);
  const others = new Set(["lm_head.weight", twin, SENTENCEPIECE]);
  const keys = weights.keys.filter((key) => !key.startsWith("decoder.") && !others.has(key));
  if (!keys.includes("shared.weight") && weights.has(twin)) keys.push("shared.weight");
  return {
    keys,
    get: (key) => weights.get(at(key)),
    info: (key) => weights.info(at(key)),
    prefetch: (key) => weights.prefetch(at(key)),
    release: (key) => weights.release(at(key)),
    exclusive: true,
    [Symbol.dispose]: () => weights.dispose(),
  };
}

/** The configuration of a folder; of a file alone, what its weights tell. */
function configOf(path: string): T5Config {
  if (!path.endsWith(".safetensors")) return readConfig(path);
  const beside = join(dirname(path), "config.json");
  const stated = existsSync(beside) ? T5Config.safeParse(JSON.parse(readFileSync(beside, "utf8"))).data : undefined;
  if (stated !== undefined) return stated;
  using weights = encoderWeights(openCheckpoint(path));
  return toldByWeights(weights, path);
}

/** Bytes of the encoder's weights, from the header alone; with `offload`, of those that are on the device at a time. */
export function weightBytes(
  folder: string,
  { dtype, weights: form, offload = false }: Omit<Placement, "device"> = {},
): number {
  if (form !== undefined) {
    using shapes = filled(new T5Encoder(configOf(folder)), folder, { device: "meta", dtype, weights: form, offload });
    return shapes.loadedBytes();
  }
  using weights = encoderWeights(openCheckpoint(folder));
  const of = (keys: readonly string[]): number => bytesOf({ keys, info: weights.info }, dtype);
  return offload ? offloadedBytes(new T5Encoder(configOf(folder)), (_, name) => of([name])) : of(weights.keys);
}

type Placement = Pick<Settings, "device" | "dtype" | "weights" | "offload">;

function filled(module: T5Encoder, folder: string, { dtype, device, weights, offload = false }: Placement): T5Encoder {
  return module.loadFrom(encoderWeights(openCheckpoint(folder)), {
    device,
    weights: formFor(module, weights),
    offload,
    ...(dtype === undefined ? {} : { dtype }),
  });
}

/** Bytes of fresh weights, which are float32. */
export const freshBytes = (config: T5Config): number => new T5Encoder(config).bytes("float32");

export class T5TextEncoder implements Contract {
  readonly module: T5Encoder;
  readonly tokenizer: UnigramTokenizer;
  readonly #config: T5Config;
  readonly #settings: Settings;
  readonly #tokenizerFolder: string;

  private constructor(config: T5Config, settings: Settings, folder: string) {
    this.#config = config;
    this.#settings = settings;
    this.#tokenizerFolder = settings.tokenizer ?? tokenizerFolder(folder);
    this.tokenizer = UnigramTokenizer.load(this.#tokenizerFolder);
    this.module = new T5Encoder(config);
  }

  static load(folder: string, settings: Settings): T5TextEncoder {
    if (settings.device === "meta" && !hasWeights(folder)) {
      const tokenizer = settings.tokenizer ?? tokenizerFolder(folder);
      return T5TextEncoder.fresh(readConfig(folder), 0, {
        ...settings,
        tokenizer,
        dtype: settings.dtype ?? "bfloat16",
      });
    }
    const encoder = new T5TextEncoder(configOf(folder), settings, folder);
    filled(encoder.module, folder, settings);
    return encoder;
  }

  /** Fresh weights for a tokenizer, for joint training. `tokenizer` must be set. */
  static fresh(config: T5Config, seed: number, settings: Settings): T5TextEncoder {
    if (settings.tokenizer === undefined)
      throw new WaverError("invalid_input", "fresh weights need a tokenizer to belong to");
    const encoder = new T5TextEncoder(config, settings, settings.tokenizer);
    using generator = new Generator(seed);
    encoder.module.init(generator, { ...settings, weights: formFor(encoder.module, settings.weights) });
    return encoder;
  }

  tokenize(texts: readonly string[]): number[][] {
    const { clean, maxTokens } = this.#settings;
    return texts.map((text) => [
      ...this.tokenizer.encode(clean ? cleanPrompt(text) : text).slice(0, maxTokens - 1),
      this.#config.eos_token_id,
    ]);
  }

  encode(texts: readonly string[], { padTo = 0 }: { padTo?: number } = {}): Conditioning {
    const rows = this.tokenize(texts);
    const length = Math.max(padTo, ...rows.map((row) => row.length));
    return scope(() => {
      const { device } = this.module.shared.weight;
      const longest = Math.max(...rows.map((row) => row.length));
      const padded = rows.map((row) => [
        ...row,
        ...new Array<number>(longest - row.length).fill(this.#config.pad_token_id),
      ]);
      const ids = tensor(padded, { dtype: "int64", device });
      const mask = tensor(
        rows.map((row) => Array.from({ length }, (_, i) => i < row.length)),
        { device },
      );
      const real = mask.narrow(1, 0, longest);
      // zero rows after the prompt: what an encoder says at padded positions means nothing, and Wan's DiT has no mask
      const states = this.module.forward(ids, real).mul(real.unsqueeze(2).to(this.module.shared.weight.dtype));
      return { states: length === longest ? states : pad(states, [0, 0, 0, length - longest]), mask };
    });
  }

  async save(folder: string): Promise<void> {
    mkdirSync(folder, { recursive: true });
    saveSafetensors(join(folder, WEIGHTS), this.module.stateDict(), { format: "pt" });
    const architecture = biasInEveryLayer(this.#config) ? "UMT5EncoderModel" : "T5EncoderModel";
    writeFileSync(
      join(folder, "config.json"),
      `${JSON.stringify({ architectures: [architecture], ...this.#config }, null, 2)}\n`,
    );
    for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
      const source = join(this.#tokenizerFolder, name);
      if (existsSync(source)) copyFileSync(source, join(folder, name));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.module.dispose();
  }
}
