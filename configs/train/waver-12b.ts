/**
 * The eleven stages of Waver, one row of Table 2 each, in the order in which they are trained.
 *
 * P = said by the paper (Table 1, Table 2, Sections 2.2, 4.1-4.3); C = our choice where it is silent. The paper gives no
 * batch sizes: `batch` is C, and steps follow from data volume x epochs / batch. Nobody has run these recipes.
 */

/** Table 1 (P) with flan-t5-xxl and Qwen2.5-32B-Instruct features; the rest is C, see plugins/waver/README.md. */
// biome-ignore format: a table
const NETWORK = {
  num_dual: 16, num_single: 40, num_heads: 24, head_dim: 128, in_channels: 36, out_channels: 16,
  patch_size: [1, 2, 2], t5_dim: 4096, qwen_dim: 5120, max_t5: 256, max_qwen: 512,
  pos_sizes: [128, 128, 128], rope_theta: 10_000, window: null,
};
/** Section 2.2 (P): spatial 2x2x1 and temporal 1x1x2 windows, read as counts (C). */
const REFINER = { ...NETWORK, window: { kind: "count", spatial: [2, 2, 1], temporal: [1, 1, 2] } };

/** Section 4.3 (P). */
const IMAGE_TIMES = { kind: "logit-normal", mean: 0.5, std: 1 };
const VIDEO_TIMES = { kind: "mode", scale: 1.29 };

type Size = { width: number; height: number };
/** Both ways round. */
const turned = (width: number, height: number): Size[] => [
  { width, height },
  { width: height, height: width },
];
/** T2I aspects 1:1, 16:9, 9:16, 4:3 and 3:4 (P) at about side x side pixels, in steps of 16 (C). */
const aspects = (side: number): Size[] =>
  [
    [1, 1],
    [16, 9],
    [9, 16],
    [4, 3],
    [3, 4],
  ].map(([w = 1, h = 1]) => ({
    width: Math.round((side * Math.sqrt(w / h)) / 16) * 16,
    height: Math.round((side * Math.sqrt(h / w)) / 16) * 16,
  }));

const video = (width: number, height: number, fps: number, seconds = 5): object => ({
  sizes: turned(width, height),
  fps,
  frames: 1 + 4 * Math.round((seconds * fps) / 4),
});

interface Row {
  readonly parent: string | null;
  readonly video?: object;
  readonly image: { sizes: Size[] };
  /** Clips and images, in millions (P). */
  readonly volume: { videos: number; images: number };
  readonly epochs: number;
  readonly lr: number;
  readonly shift: number;
  /** Clips or images a step (C). */
  readonly batch: number;
  /** Probability of a known first frame: 20 % from 480p on (P). */
  readonly firstFrame?: number;
  readonly refine?: boolean;
}

// biome-ignore format: one row a stage, as in the paper
const TABLE_2: Readonly<Record<string, Row>> = {
  "t2i-256p": { parent: null, image: { sizes: aspects(256) }, volume: { videos: 0, images: 170 }, epochs: 24, lr: 1e-4, shift: 1, batch: 4096 },
  "t2i-512p": { parent: "t2i-256p", image: { sizes: aspects(512) }, volume: { videos: 0, images: 100 }, epochs: 3, lr: 6e-5, shift: 2, batch: 2048 },
  "t2i-1024p": { parent: "t2i-512p", image: { sizes: aspects(1024) }, volume: { videos: 0, images: 60 }, epochs: 1, lr: 3e-5, shift: 3, batch: 1024 },
  // From here on images and videos have the same resolution (4.1).
  "t2v-192p-12fps": { parent: "t2i-1024p", video: video(352, 192, 12), image: { sizes: turned(352, 192) }, volume: { videos: 185, images: 40 }, epochs: 2, lr: 1e-4, shift: 1.5, batch: 1024 },
  "t2v-192p-16fps": { parent: "t2v-192p-12fps", video: video(352, 192, 16), image: { sizes: turned(352, 192) }, volume: { videos: 185, images: 40 }, epochs: 1.5, lr: 1e-4, shift: 1.5, batch: 1024 },
  // Representation alignment (4.2) belongs to this stage alone.
  "i2v-480p": { parent: "t2v-192p-16fps", video: video(864, 480, 16), image: { sizes: turned(864, 480) }, volume: { videos: 41, images: 40 }, epochs: 3, lr: 5e-5, shift: 2.5, batch: 512, firstFrame: 0.2 },
  "i2v-720p": { parent: "i2v-480p", video: video(1280, 720, 24), image: { sizes: [...turned(1280, 720), ...turned(1920, 1080)] }, volume: { videos: 22, images: 15 }, epochs: 1, lr: 3e-5, shift: 3, batch: 256, firstFrame: 0.2 },
  "i2v-720p-ct": { parent: "i2v-720p", video: video(1280, 720, 24), image: { sizes: [...turned(1280, 720), ...turned(1920, 1080)] }, volume: { videos: 4, images: 15 }, epochs: 2, lr: 1e-5, shift: 3, batch: 256, firstFrame: 0.2 },
  "i2v-720p-sft": { parent: "i2v-720p-ct", video: video(1280, 720, 24), image: { sizes: [...turned(1280, 720), ...turned(1920, 1080)] }, volume: { videos: 0.1, images: 15 }, epochs: 2, lr: 5e-6, shift: 3, batch: 256, firstFrame: 0.2 },
  // The refiner starts from 720p CT, not from SFT (4.1).
  "refiner-1080p": { parent: "i2v-720p-ct", video: video(1920, 1080, 24), image: { sizes: turned(1920, 1080) }, volume: { videos: 3, images: 3 }, epochs: 1, lr: 1e-5, shift: 4.5, batch: 128, refine: true },
  "refiner-1080p-sft": { parent: "refiner-1080p", video: video(1920, 1080, 24), image: { sizes: turned(1920, 1080) }, volume: { videos: 0.2, images: 3 }, epochs: 1, lr: 5e-6, shift: 4.5, batch: 128, refine: true },
};

const MILLION = 1e6;

/** A row as the body of `waver train`, without the set, the parent's folder and the output, which belong to a machine. */
function stage(name: string, row: Row): object {
  const samples = (row.volume.videos + row.volume.images) * MILLION;
  return {
    name: `waver-12b-${name}`,
    parent: row.parent === null ? null : `waver-12b-${row.parent}`,
    source: "Waver Table 2",
    volume: { videos: row.volume.videos * MILLION, images: row.volume.images * MILLION, epochs: row.epochs },
    train: {
      component: row.refine === true ? "refiner" : "transformer",
      ...(row.video === undefined ? {} : { video: row.video }),
      image: row.image,
      imageShare: (row.volume.images * MILLION) / samples,
      steps: Math.ceil((samples * row.epochs) / row.batch),
      batch: row.batch,
      lr: row.lr,
      // Decreasing over the stages (P); within one: linear warm-up, then constant (C).
      schedule: "constant",
      warmup: 1000,
      trainText: false,
      // Later stages have their parent's network; the refiner reads the same weights through windows.
      ...(row.parent === null ? { family: { id: "waver", config: NETWORK } } : {}),
      ...(row.refine === true && row.parent === "i2v-720p-ct" ? { family: { id: "waver", config: REFINER } } : {}),
      objective:
        row.refine === true
          ? { id: "refine", factor: 3, wd: [0.85, 0.95], shift: row.shift }
          : {
              id: "flow",
              timesteps: { image: IMAGE_TIMES, video: VIDEO_TIMES },
              shift: row.shift,
              firstFrame: row.firstFrame ?? 0,
              textDropout: 0.1,
            },
    },
  };
}

export default Object.entries(TABLE_2).map(([name, row]) => stage(name, row));
