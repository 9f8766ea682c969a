/** A LoRA file, open: its tensors are read in the precision of the layers that they ride on, once. */
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import {
  Adaptable,
  type Checkpoint,
  type Device,
  type DType,
  fused,
  type LowRank,
  type Module,
  openCheckpoint,
  Scope,
  scope,
  type Tensor,
  withLowRank,
} from "../../native/index.ts";
import { type Adapter, WaverError } from "../index.ts";
import {
  type LoraLayer,
  type LoraLayout,
  layoutOf,
  listed,
  type PeftConfig,
  peftConfig,
  resolver,
  strength,
} from "./layout.ts";

/** Bytes of the tensors, from the header alone. */
export function weightBytes(path: string): number {
  using file = openCheckpoint(path);
  return file.keys.reduce((sum, key) => sum + file.info(key).bytes, 0);
}

/** A layer of the network and what the file adds to it, at weight 1. */
interface Bound extends LowRank {
  readonly name: string;
  readonly layer: Adaptable & { readonly weight: Tensor; readonly bias: Tensor | null };
}

/** What a LoRA needs to know of a network. */
export interface Network {
  readonly module: Module;
  aliases?(layer: string): readonly string[];
}

export class LoraFile implements Disposable {
  readonly #path: string;
  readonly #file: Checkpoint;
  readonly #device: Device;
  readonly #layout: LoraLayout;
  readonly #config: PeftConfig;
  readonly #scope = new Scope();
  /** Tensors by key and dtype. */
  readonly #tensors = new Map<string, Tensor>();

  private constructor(path: string, device: Device) {
    this.#path = path;
    this.#device = device;
    this.#file = openCheckpoint(path);
    try {
      this.#layout = layoutOf(this.#file.keys, path);
      this.#config = peftConfig(header(this.#file) ?? beside(path), path);
      this.#refuseDifferences();
    } catch (error) {
      this.#file.dispose();
      throw error;
    }
  }

  static open(path: string, device: Device): LoraFile {
    if (!existsSync(path))
      throw new WaverError("checkpoint_missing", `there is no LoRA at ${path}`, {
        hint: "give a safetensors file, or a folder with one",
      });
    return new LoraFile(path, device);
  }

  [Symbol.dispose](): void {
    this.#scope.dispose();
    this.#file.dispose();
  }

  /** The file on a network: which layers, a way to switch it on, and a way to make it part of them. */
  on(network: Network): Adapter {
    const bound = new Map(this.#bind(network).map((each) => [each.name, each]));
    return {
      layers: [...bound.keys()],
      during: (weight, work) =>
        withLowRank(new Map([...bound.values()].map((each) => [each.layer, weighted(each, weight)])), work),
      fused: (name, own, weight) => {
        const [, layer = "", part] = /^(.*)\.(weight|bias)$/.exec(name) ?? [];
        const found = bound.get(layer);
        if (found?.bias !== undefined && found.layer.bias === null)
          throw new WaverError(
            "checkpoint_mismatch",
            `${this.#path} adds a bias to ${layer}, which has none to take it`,
            {
              hint: "use it beside the weights: waver generate --lora",
            },
          );
        if (found === undefined || (part === "bias" && found.bias === undefined)) return undefined;
        return part === "bias" ? withBias(own, found, weight) : fused(own, weighted(found, weight));
      },
    };
  }

  #bind(network: Network): readonly Bound[] {
    const { module } = network;
    const layers = new Map([...module.namedModules()].filter(([name]) => name !== ""));
    const find = resolver(new Map([...layers.keys()].map((name) => [name, network.aliases?.(name) ?? []])));
    const strangers: string[] = [];
    const bound: Bound[] = [];
    for (const spelled of this.#layout.layers) {
      const name = find(spelled.target);
      const layer = name === undefined ? undefined : layers.get(name);
      if (name === undefined || !(layer instanceof Adaptable)) strangers.push(spelled.target);
      else bound.push(this.#boundTo(name, layer as Bound["layer"], spelled));
    }
    if (strangers.length === 0) return bound;
    throw new WaverError(
      "checkpoint_mismatch",
      `${this.#path} changes layers that this network does not have (${strangers.length} of ${this.#layout.layers.length}): ${listed(strangers)}`,
      { hint: "the LoRA was made for another model" },
    );
  }

  #boundTo(name: string, layer: Bound["layer"], { target, down, up, alpha, bias, biasScaled }: LoraLayer): Bound {
    const [rank = 0, ...inner] = this.#file.info(down).shape;
    const [outer, second] = this.#file.info(up).shape;
    const [out, ...into] = layer.weight.shape;
    if (outer !== out || second !== rank || inner.join() !== into.join())
      throw new WaverError(
        "checkpoint_mismatch",
        `${this.#path} changes ${name}, which is [${layer.weight.shape}] here, by [${this.#file.info(up).shape}] x [${this.#file.info(down).shape}]`,
        { hint: "the LoRA was made for another size of this model" },
      );
    const { dtype } = layer;
    const given = alpha === undefined ? undefined : scope(() => this.#file.get(alpha, { dtype: "float32" }).item());
    const scale = strength(target, rank, this.#config, given);
    return {
      name,
      layer,
      down: this.#tensor(down, dtype),
      up: this.#tensor(up, dtype),
      scale,
      ...(bias === undefined ? {} : { bias: this.#tensor(bias, dtype), biasScale: biasScaled === true ? scale : 1 }),
    };
  }

  #tensor(key: string, dtype: DType): Tensor {
    const name = `${key} ${dtype}`;
    const held = this.#tensors.get(name);
    if (held !== undefined) return held;
    const read = this.#scope.run(() => this.#file.get(key, { dtype, device: this.#device }));
    this.#tensors.set(name, read);
    return read;
  }

  /** Distilled models' files list a zero for every weight that did not change; another difference would be lost here. */
  #refuseDifferences(): void {
    const differs = this.#layout.differences.filter((key) =>
      scope(() => this.#file.get(key, { dtype: "float32" }).abs().max().item() !== 0),
    );
    if (differs.length > 0)
      throw new WaverError(
        "checkpoint_invalid",
        `${this.#path} replaces whole weights as well (${differs.length}), which is not of low rank and not applied here: ${listed(differs)}`,
      );
  }
}

const weighted = ({ down, up, scale, bias, biasScale = 1 }: LowRank, weight: number): LowRank => ({
  down,
  up,
  scale: scale * weight,
  ...(bias === undefined ? {} : { bias, biasScale: biasScale * weight }),
});

const withBias = (own: Tensor, { bias, biasScale = 1 }: LowRank, weight: number): Tensor =>
  scope(() =>
    bias === undefined
      ? own.clone()
      : own
          .float()
          .add(bias.float().mul(biasScale * weight))
          .to(own.dtype),
  );

/** What diffusers writes into the header. */
function header(file: Checkpoint): unknown {
  const text = file.metadata["lora_adapter_metadata"];
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** PEFT's own folder. */
function beside(path: string): unknown {
  const config = join(path, "adapter_config.json");
  return statSync(path).isDirectory() && existsSync(config) ? JSON.parse(readFileSync(config, "utf8")) : {};
}
