/** AutoencoderKLWan, both forms: posterior, normalisation, decoding and every tap, chunk by chunk as the reference runs. */

import { scope } from "../../../native/index.ts";
import { WanVae } from "../../../plugins/wan-vae/codec.ts";
import type { Tiling } from "../../../plugins/wan-vae/tiles.ts";
import { defineCase, type Produce } from "../case.ts";
import type { Golden } from "../golden.ts";
import { toTensor } from "../tensors.ts";

interface Tiles {
  readonly tile_sample_min_height: number;
  readonly tile_sample_min_width: number;
  readonly tile_sample_stride_height: number;
  readonly tile_sample_stride_width: number;
}

/** Everything about one group of inputs, `in.GROUP.pixels` and `in.GROUP.latents_to_decode_normalized`. */
function check(vae: WanVae, golden: Golden, source: string, group: string, produce: Produce): void {
  scope(() => {
    const tap = (name: string, value: Parameters<Produce>[1]): void => produce(`${group}.tap.${name}`, value);
    const { mean, logvar } = vae.posterior(toTensor(golden.input(`${source}.pixels`)), tap);
    produce(`${group}.mean`, mean);
    produce(`${group}.mode`, mean);
    produce(`${group}.logvar`, logvar);
    produce(`${group}.std`, logvar.mul(0.5).exp());
    produce(`${group}.latents_normalized`, vae.normalise(mean));
    if (!golden.has(`${source}.latents_to_decode_normalized`)) return;
    const z = vae.denormalise(toTensor(golden.input(`${source}.latents_to_decode_normalized`)));
    produce(`${group}.z`, z);
    produce(`${group}.decoded`, vae.reconstruct(z, tap).clamp(-1, 1));
  });
}

export default defineCase({
  cases: ["vae_wan", "vae_wan22", "vae_wan_tiled"],
  async run(golden, produce) {
    const folder = golden.path(golden.params.checkpoint as string);
    const groups = [...new Set(golden.inputs.map((name) => name.slice(0, name.lastIndexOf("."))))];
    const tiles = golden.params.tiling as Tiles | undefined;
    const tiling: Tiling | undefined = tiles && {
      size: [tiles.tile_sample_min_height, tiles.tile_sample_min_width],
      stride: [tiles.tile_sample_stride_height, tiles.tile_sample_stride_width],
    };
    await using vae = WanVae.load(folder, { device: "cpu", perChunk: 1, tiling });
    for (const group of groups) check(vae, golden, group, group, produce);
    if (tiling === undefined) return;
    await using untiled = WanVae.load(folder, { device: "cpu", perChunk: 1 });
    check(untiled, golden, "tiled", "untiled", produce);
  },
});
