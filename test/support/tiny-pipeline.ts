/** A pipeline folder of the project's own family at the smallest sizes, with random weights: what `generate` takes. */
import { cpSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Generator, normal_ } from "../../native/index.ts";
import { T5TextEncoder } from "../../plugins/t5/encoder.ts";
import { T5Config } from "../../plugins/t5/params.ts";
import { fresh, save } from "../../plugins/waver/checkpoint.ts";
import { WaverParams } from "../../plugins/waver/params.ts";
import { TINY_NETWORK, TINY_TEXT, TOKENIZER, tinyVae } from "./tiny-model.ts";

/** 32 x 32 pixels, 5 frames: 2 x 4 x 4 tokens. */
export async function tinyPipeline(folder: string): Promise<string> {
  mkdirSync(join(folder, "scheduler"), { recursive: true });
  await tinyVae(join(folder, "vae"));
  await using encoder = T5TextEncoder.fresh(T5Config.parse(TINY_TEXT.config), 4, {
    device: "cpu",
    maxTokens: TINY_TEXT.maxTokens,
    tokenizer: TOKENIZER,
    clean: true,
  });
  await encoder.save(join(folder, "text_encoder"));
  cpSync(TOKENIZER, join(folder, "tokenizer"), { recursive: true });
  using generator = new Generator(3);
  using network = fresh(WaverParams.parse(TINY_NETWORK.config), TINY_NETWORK.seed);
  // fresh gates are zero: nothing would matter
  for (const weight of network.parameters()) normal_(weight, 0, 0.2, generator);
  await save(network, join(folder, "transformer"));
  const json = (path: string, value: object): void => writeFileSync(join(folder, path), JSON.stringify(value));
  json("scheduler/scheduler_config.json", { _class_name: "WaverFlowScheduler", shift: 2 });
  json("model_index.json", {
    _class_name: "WaverPipeline",
    _waver: { defaults: { width: 32, height: 32, numFrames: 5, fps: 8, numSteps: 3 } },
    transformer: ["waver", "WaverTransformer3DModel"],
    vae: ["diffusers", "AutoencoderKLWan"],
    text_encoder: ["transformers", "T5EncoderModel"],
    tokenizer: ["transformers", "T5TokenizerFast"],
    scheduler: ["waver", "WaverFlowScheduler"],
  });
  return folder;
}
