/** `--tap` on the vision networks: a weight that is spoilt in the middle is found where it sits, by the names that golden cases use. */
import { expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  Generator,
  keep,
  type Module,
  randint,
  randn,
  saveSafetensors,
  scope,
  setThreads,
  type Tensor,
  tensor,
} from "../../native/index.ts";
import { Clip, ClipVision } from "../../plugins/clip/model.ts";
import { ClipConfig, VisionConfig } from "../../plugins/clip/params.ts";
import { Dinov2 } from "../../plugins/dinov2/model.ts";
import { Dinov2Config } from "../../plugins/dinov2/params.ts";
import { Raft } from "../../plugins/raft/model.ts";
import type { EncoderShape } from "../../plugins/raft/params.ts";
import { Siglip } from "../../plugins/siglip/model.ts";
import { SiglipConfig } from "../../plugins/siglip/params.ts";
import type { ParityCase, Produce, Value } from "./case.ts";
import clip from "./cases/clip.ts";
import dinov2 from "./cases/dinov2.ts";
import raft from "./cases/raft.ts";
import siglip from "./cases/siglip.ts";
import { Golden } from "./golden.ts";

setThreads(1);

const tower = { hidden_size: 24, intermediate_size: 32, num_hidden_layers: 3, num_attention_heads: 3 };
const vision = { ...tower, image_size: 28, patch_size: 7, projection_dim: 24 };
const text = { ...tower, vocab_size: 40, max_position_embeddings: 8, eos_token_id: 39 };
const encoder = (norm: EncoderShape["norm"], last: number): EncoderShape => ({
  layers: [8, 8, 12, 16, last],
  block: "bottleneck",
  norm,
});
const noise = (shape: number[]): Tensor => {
  using generator = new Generator(1);
  return randn(shape, { generator });
};
const words = (): Tensor => {
  using generator = new Generator(2);
  return randint(1, 39, [2, 8], { generator });
};
const pixels = { "in.main.pixel_values": () => noise([2, 3, 28, 28]) };

interface Subject {
  readonly definition: ParityCase;
  readonly config?: object;
  readonly params: object;
  readonly module: () => Module;
  readonly inputs: Readonly<Record<string, () => Tensor>>;
  /** The weight that is spoilt, and the first value that feels it. */
  readonly spoilt: string;
  readonly first: string;
}

const folder = { checkpoint: "model/" };
const subjects: Readonly<Record<string, Subject>> = {
  clip_vision: {
    definition: clip,
    config: { model_type: "clip_vision_model", ...vision },
    params: folder,
    module: () => new ClipVision(VisionConfig.parse(vision), false),
    inputs: pixels,
    spoilt: "vision_model.encoder.layers.1.mlp.fc1.bias",
    first: "main.hidden_states.2",
  },
  clip_model: {
    definition: clip,
    config: { model_type: "clip", vision_config: vision, text_config: text, projection_dim: 24 },
    params: folder,
    module: () => new Clip(ClipConfig.parse({ vision_config: vision, text_config: text, projection_dim: 24 })),
    inputs: {
      ...pixels,
      "in.main.input_ids": words,
      "in.main.attention_mask": () => scope(() => words().gt(0).to("int64")),
    },
    spoilt: "text_model.final_layer_norm.bias",
    first: "main.text_model_output.last_hidden_state",
  },
  siglip_model: {
    definition: siglip,
    config: { model_type: "siglip", vision_config: vision, text_config: text },
    params: folder,
    module: () => new Siglip(SiglipConfig.parse({ vision_config: vision, text_config: text })),
    inputs: { ...pixels, "in.main.input_ids": words },
    spoilt: "vision_model.head.mlp.fc2.bias",
    first: "main.vision_model_output.pooler_output",
  },
  dinov2_with_registers: {
    definition: dinov2,
    config: { model_type: "dinov2_with_registers", ...vision },
    params: folder,
    module: () => new Dinov2(Dinov2Config.parse({ model_type: "dinov2_with_registers", ...vision })),
    inputs: pixels,
    spoilt: "encoder.layer.0.layer_scale2.lambda1",
    first: "main.hidden_states.1",
  },
  raft_small: {
    definition: raft,
    params: { checkpoint: "model/model.safetensors", num_flow_updates: 2 },
    module: () =>
      new Raft({
        features: encoder("instance", 16),
        context: encoder("none", 20),
        levels: 4,
        radius: 1,
        motion: { corr: [12], flow: [8, 8], out: 12 },
        hidden: 12,
        kernels: [[3, 3]],
        head: 8,
        mask: undefined,
      }),
    inputs: { "in.image1": () => noise([1, 3, 128, 128]), "in.image2": () => noise([1, 3, 128, 128]) },
    spoilt: "update_block.flow_head.conv2.bias",
    first: "flow.0",
  },
};

test.each(Object.entries(subjects))("%s", async (name, subject) => {
  const root = mkdtempSync(join(tmpdir(), "tap-"));
  try {
    const { module, tolerance } = await write(root, name, subject);
    try {
      const agreed = await parity(root);
      expect(agreed[0]).toStartWith(`pass ${name}`);
      scope(() => void (module.stateDict().get(subject.spoilt) as Tensor).add_(0.5));
      saveSafetensors(join(root, "model/model.safetensors"), module.stateDict());
      const lines = await parity(root);
      expect(lines[0]).toStartWith(`fail ${name}`);
      expect(lines[1]).toContain(`first to diverge: ${subject.first}:`);
      expect(lines[2]).toContain(`last to agree:    ${tolerance[tolerance.indexOf(subject.first) - 1]}:`);
    } finally {
      module.dispose();
    }
  } finally {
    rmSync(root, { recursive: true, force: true });
  }
});

/** A case of fresh weights whose reference is what its own file in cases/ produces; names of its values in their order. */
async function write(root: string, name: string, subject: Subject): Promise<{ module: Module; tolerance: string[] }> {
  using generator = new Generator(7);
  const module = subject.module().init(generator);
  mkdirSync(join(root, "model"));
  if (subject.config !== undefined) writeFileSync(join(root, "model/config.json"), JSON.stringify(subject.config));
  saveSafetensors(join(root, "model/model.safetensors"), module.stateDict());
  const describe = (names: readonly string[]): void =>
    writeFileSync(
      join(root, "case.json"),
      JSON.stringify({
        name,
        params: subject.params,
        tolerance: Object.fromEntries(names.map((each) => [each, { max_abs: 1e-4, rel_l2: 1e-4 }])),
      }),
    );
  describe([]);
  const held = new Map<string, Tensor>();
  try {
    for (const [key, make] of Object.entries(subject.inputs)) held.set(key, make());
    saveSafetensors(join(root, "io.safetensors"), held);
    const note = (key: string, value: Value): void => {
      const { shape } = value as Tensor;
      held.set(`out.${key}`, keep(scope(() => tensor((value as Tensor).to("float32").toFloat32Array()).view(shape))));
    };
    const produce: Produce = Object.assign(note, { json: () => undefined });
    await subject.definition.run(new Golden(root), produce);
    saveSafetensors(join(root, "io.safetensors"), held);
    const names = [...held.keys()].filter((key) => key.startsWith("out.")).map((key) => key.slice(4));
    describe(names);
    return { module, tolerance: names };
  } finally {
    for (const each of held.values()) each.dispose();
  }
}

async function parity(root: string): Promise<string[]> {
  const child = Bun.spawn([process.execPath, join(import.meta.dir, "run.ts"), root, "--tap"], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const said = await new Response(child.stdout).text();
  await child.exited;
  return said.trim().split("\n");
}
