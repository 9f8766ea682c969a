/** Decoding with Wan's full-size VAE, streamed chunk by chunk as `generate` does it, beside diffusers' decode. */
import { join } from "node:path";
import {
  allocatedBytes,
  noGrad,
  openSafetensors,
  peakBytes,
  profiled,
  profileTable,
  resetPeakBytes,
  scope,
  type Tensor,
} from "../../native/index.ts";
import { WanVae } from "../../plugins/wan-vae/codec.ts";
import { type Bench, gemmPeaks, gemms, interleaved, round, seconds } from "./bench.ts";

/** Latent frames, rows, columns: 9, 17 and 33 frames of 128 x 208. */
const SIZES = [3, 5, 9].map((frames) => [frames, 16, 26] as const);
/** Compared number for number: smaller, for float32 is slow. */
const CHECK = [3, 6, 10] as const;
/** Growth of the peak from 9 to 33 frames that still counts as flat: the latents themselves. */
const FLAT = 1.02;

export const vae: Bench = async ({ peer, folder, rounds, profile, log }) => {
  await peer.ask({ do: "vae", folder, sizes: SIZES, check: CHECK, channels: 16 });
  using io = openSafetensors(join(folder, "io.safetensors"));
  await using full = WanVae.load(join(folder, "vae"), { device: "cpu", dtype: "float32" });
  await using half = WanVae.load(join(folder, "vae"), { device: "cpu", dtype: "bfloat16" });
  // the reference's decode takes latents as the network sees them
  const each = (codec: WanVae, latents: string, take: (chunk: Tensor) => void): void =>
    noGrad(() =>
      scope(() => {
        for (const chunk of codec.decodeChunks(codec.normalise(io.get(latents)))) {
          take(chunk);
          chunk.dispose();
        }
      }),
    );

  const errors = scope(() => {
    const [ref32, ref16] = [io.get("out.float32"), io.get("out.bfloat16").clamp(-1, 1)];
    const far = (codec: WanVae): number => {
      let [at, squares] = [0, 0];
      each(codec, "check", (chunk) => {
        const n = chunk.size(2);
        squares +=
          scope(() =>
            chunk
              .to("float32")
              .sub(ref32.narrow(2, at, n))
              .norm()
              .item(),
          ) ** 2;
        at += n;
      });
      return Math.sqrt(squares) / ref32.norm().item();
    };
    return {
      "float32.relative": far(full),
      "bfloat16.relative": far(half),
      "bfloat16.reference": ref16.sub(ref32).norm().item() / ref32.norm().item(),
    };
  });
  if (errors["float32.relative"] > 1e-4 || errors["bfloat16.relative"] > 2 * errors["bfloat16.reference"])
    throw new Error(`the outputs are not those of the reference: ${JSON.stringify(errors)}`);

  const memory = Object.fromEntries(
    SIZES.map(([frames]) => {
      const before = allocatedBytes();
      resetPeakBytes();
      each(half, `latents${frames}`, () => undefined);
      return [`peak.${1 + 4 * (frames - 1)}frames.bytes`, peakBytes() - before];
    }),
  );
  const bytes = Object.values(memory);
  if (profile) log(profileTable(profiled(() => each(half, `latents${SIZES[0]?.[0]}`, () => undefined))));
  using peak = gemms();
  const run = (codec: WanVae) => () => seconds(() => each(codec, `latents${SIZES[0]?.[0]}`, () => undefined));
  const times = await interleaved(rounds, {
    "waver.bfloat16": run(half),
    "diffusers.bfloat16": () => peer.seconds("vae.bfloat16"),
    "gemm.float32": peak["gemm.float32"],
    "gemm.bfloat16": peak["gemm.bfloat16"],
  });
  log(JSON.stringify(times));
  return {
    ratios: {
      bf16: round(times["diffusers.bfloat16"] / times["waver.bfloat16"]),
      memory33to9: round((bytes.at(-1) ?? 0) / (bytes[0] ?? 1)),
    },
    peaks: { ...gemmPeaks(times), ...memory },
    flat: (bytes.at(-1) ?? 0) <= FLAT * (bytes[0] ?? 0),
    seconds: times,
    errors,
  };
};
