/** A Waver network in a folder: `config.json` and `diffusion_pytorch_model.safetensors`, or shards with an index. */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import {
  type Device,
  type DType,
  Generator,
  hasWeights,
  offloadedBytes,
  openCheckpoint,
  saveSafetensors,
  type WeightForm,
} from "../../native/index.ts";
import { WaverError } from "../errors.ts";
import { WaverTransformer } from "./model.ts";
import { WaverParams } from "./params.ts";

export const CLASS_NAME = "WaverTransformer3DModel";
const WEIGHTS = "diffusion_pytorch_model.safetensors";

export async function readParams(folder: string): Promise<WaverParams> {
  const file = Bun.file(join(folder, "config.json"));
  if (!(await file.exists())) throw new WaverError("checkpoint_missing", `${folder} holds no config.json`);
  // Diffusers' own keys begin with an underscore.
  const entries = Object.entries((await file.json()) as Record<string, unknown>).filter(
    ([key]) => !key.startsWith("_"),
  );
  const parsed = WaverParams.safeParse(Object.fromEntries(entries));
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new WaverError("checkpoint_invalid", `${folder}/config.json: ${issue?.path.join(".")} ${issue?.message}`);
}

interface Fresh {
  readonly dtype?: DType | undefined;
  readonly device?: Device;
  readonly weights?: WeightForm | undefined;
}

export async function load(
  folder: string,
  how: Fresh & { offload?: boolean | undefined } = {},
): Promise<WaverTransformer> {
  const network = new WaverTransformer(await readParams(folder));
  if (how.device === "meta" && !hasWeights(folder)) return shaped(network, how);
  return network.loadFrom(openCheckpoint(folder), { ...how, offload: how.offload ?? false });
}

/** Shapes alone, of weights that are not here; bfloat16 is what they are published in. */
function shaped(network: WaverTransformer, { dtype = "bfloat16", weights }: Fresh): WaverTransformer {
  using generator = new Generator(0);
  return network.init(generator, { dtype, weights, device: "meta" });
}

export function fresh(params: WaverParams, seed: number, how: Fresh = {}): WaverTransformer {
  using generator = new Generator(seed);
  return new WaverTransformer(params).init(generator, how);
}

export async function save(network: WaverTransformer, folder: string): Promise<void> {
  await mkdir(folder, { recursive: true });
  await Bun.write(
    join(folder, "config.json"),
    `${JSON.stringify({ _class_name: CLASS_NAME, ...network.params }, null, 2)}\n`,
  );
  saveSafetensors(join(folder, WEIGHTS), network.stateDict());
}

/** Bytes of a network whose blocks come and go. */
export const offloaded = (params: WaverParams, dtype: DType): number =>
  offloadedBytes(new WaverTransformer(params), (weight) => weight.bytesAs(dtype));
