/** A decoder as a text encoder: the states of a prompt's tokens after the last norm (Waver 2.1). */
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type CausalDecoder,
  type Device,
  type DType,
  pad,
  saveSafetensors,
  scope,
  tensor,
  type WeightForm,
  zeros,
} from "../../native/index.ts";
import { BpeTokenizer } from "../bpe.ts";
import type { Conditioning, TextEncoder as Contract } from "../index.ts";
import { loadDecoder } from "./checkpoint.ts";
import { tokenizerFolder } from "./params.ts";

export interface Settings {
  readonly device: Device;
  readonly dtype?: DType | undefined;
  /** Longer prompts are cut. */
  readonly maxTokens: number;
  /** Folder of tokenizer.json. */
  readonly tokenizer?: string | undefined;
  /** What most weights of the layers are kept in. */
  readonly weights?: WeightForm | undefined;
  /** Weights of the layers are on the device around their turns only. */
  readonly offload?: boolean | undefined;
}

export class QwenTextEncoder implements Contract {
  readonly module: CausalDecoder;
  readonly #tokenizer: BpeTokenizer;
  readonly #folder: string;
  readonly #settings: Settings & { readonly tokenizer: string };

  private constructor(folder: string, settings: Settings) {
    const tokenizer = settings.tokenizer ?? tokenizerFolder(folder);
    this.#settings = { ...settings, tokenizer };
    this.#folder = folder;
    this.#tokenizer = BpeTokenizer.load(tokenizer);
    this.module = loadDecoder(folder, settings);
  }

  static load(folder: string, settings: Settings): QwenTextEncoder {
    return new QwenTextEncoder(folder, settings);
  }

  tokenize(texts: readonly string[]): number[][] {
    return texts.map((text) => this.#tokenizer.encode(text).slice(0, this.#settings.maxTokens));
  }

  encode(texts: readonly string[], { padTo = 0 }: { padTo?: number } = {}): Conditioning {
    const rows = this.tokenize(texts);
    const longest = Math.max(...rows.map((row) => row.length));
    // an empty prompt has no tokens here: one masked row keeps the axis
    const length = Math.max(padTo, longest, 1);
    return scope(() => {
      const { device, dtype, shape } = this.module.embed_tokens.weight;
      const mask = tensor(
        rows.map((row) => Array.from({ length }, (_, i) => i < row.length)),
        { device },
      );
      if (longest === 0) return { states: zeros([rows.length, length, shape[1] as number], { dtype, device }), mask };
      // padding on the right: a token sees only what is before it, so no mask is needed
      const ids = rows.map((row) => [...row, ...new Array<number>(longest - row.length).fill(0)]);
      const columns = Array.from({ length: longest }, (_, i) => i);
      const states = this.module
        .forward(this.module.embed(ids), { positions: [rows.map(() => columns)] })
        .mul(mask.narrow(1, 0, longest).unsqueeze(2).to(dtype));
      return { states: length === longest ? states : pad(states, [0, 0, 0, length - longest]), mask };
    });
  }

  async save(folder: string): Promise<void> {
    mkdirSync(folder, { recursive: true });
    saveSafetensors(join(folder, "model.safetensors"), this.module.stateDict(), { format: "pt" });
    const config = JSON.parse(readFileSync(join(this.#folder, "config.json"), "utf8")) as Record<string, unknown>;
    const architectures = [config["model_type"] === "llama" ? "LlamaModel" : "Qwen2Model"];
    writeFileSync(join(folder, "config.json"), `${JSON.stringify({ ...config, architectures }, null, 2)}\n`);
    for (const name of ["tokenizer.json", "tokenizer_config.json"]) {
      const source = join(this.#settings.tokenizer, name);
      if (existsSync(source)) copyFileSync(source, join(folder, name));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.module.dispose();
  }
}
