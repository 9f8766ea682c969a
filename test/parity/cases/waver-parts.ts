/** Counts, window attention and flow times: what needs no checkpoint. */
import { scope, type Tensor, tensor } from "../../../native/index.ts";
import {
  logitNormal,
  logitNormalDensity,
  mode,
  modeDensity,
  shiftTime,
  timestep,
} from "../../../plugins/stage-flow/timesteps.ts";
import { attention, type Shared } from "../../../plugins/waver/layers.ts";
import { countFlops, countParameters, WaverParams, WindowParams } from "../../../plugins/waver/params.ts";
import { gridWindows, windowIds } from "../../../plugins/waver/windows.ts";
import { defineCase, type Produce } from "../case.ts";
import type { Golden } from "../golden.ts";

interface Counts {
  readonly parameters: Readonly<Record<string, { readonly config: unknown }>>;
  readonly flops: readonly {
    readonly config: string;
    readonly size: string;
    readonly frames: number;
    readonly height: number;
    readonly width: number;
  }[];
}

function counts(golden: Golden, produce: Produce): void {
  const { parameters, flops } = golden.expected as unknown as Counts;
  const configs = Object.entries(parameters).map(([name, { config }]) => [name, WaverParams.parse(config)] as const);
  produce.json(
    "parameters",
    Object.fromEntries(configs.map(([name, config]) => [name, { config, ...countParameters(config) }])),
  );
  const byName = new Map(configs);
  produce.json(
    "flops",
    flops.map(({ config, size, frames, height, width }) => {
      const cost = countFlops(byName.get(config)!, { frames, height, width });
      return {
        config,
        size,
        frames,
        height,
        width,
        patch_grid: [cost.grid.t, cost.grid.h, cost.grid.w],
        video_tokens: cost.videoTokens,
        text_tokens: cost.textTokens,
        linear: cost.linear,
        linear_by_group: cost.linearByGroup,
        attention: cost.attention,
        total: cost.total,
        attention_share: cost.attention / cost.total,
        pairs_by_kind: cost.pairsByKind,
      };
    }),
  );
}

function windows(golden: Golden, produce: Produce): void {
  for (const [run, size] of Object.entries(
    golden.params["runs"] as Record<string, { T: number; H: number; W: number }>,
  )) {
    const grid = { t: size.T, h: size.H, w: size.W };
    for (const kind of ["count", "size"] as const)
      for (const axis of ["spatial", "temporal"] as const) {
        const window = WindowParams.parse({ kind });
        const ids = windowIds(grid, window, axis);
        produce(`${run}.${axis}.${kind}.window_id`, { shape: [ids.length], data: ids });
        scope(() => {
          // [B h L d] -> [B L h d]
          const [q, k, v] = ["q", "k", "v"].map((name) => given(golden, `${run}.${name}`).transpose(1, 2)) as [
            Tensor,
            Tensor,
            Tensor,
          ];
          const groups = gridWindows(grid, window, axis).map((group) => ({
            ...group,
            index: tensor(group.tokens, { dtype: "int64" }),
          }));
          const shared: Pick<Shared, "numText" | "mask" | "windows"> = {
            numText: 0,
            mask: null,
            windows: { [axis]: groups },
          };
          produce(
            `${run}.${axis}.${kind}.out`,
            attention(q, k, v, axis, shared)
              .unflatten(-1, [q.size(2), -1])
              .transpose(1, 2),
          );
        });
      }
  }
}

const given = (golden: Golden, name: string): Tensor => {
  const { shape, data } = golden.input(name);
  return tensor(Float32Array.from(data)).reshape([...shape]);
};

function times(golden: Golden, produce: Produce): void {
  const [t, u, z] = ["t", "u", "z"].map((name) => Array.from(golden.input(name).data)) as [
    number[],
    number[],
    number[],
  ];
  const inside = u.filter((each) => each > 0 && each < 1);
  const list = (name: string, data: number[]): void => produce(name, { shape: [data.length], data });
  for (const name of golden.outputs) {
    const [, mean, std, scale, shift] =
      /^(?:logitnormal_m(.+)_s(.+)|mode_s(.+)|shift(.+?))\.(?=[a-z])/.exec(name)?.map(Number) ?? [];
    if (name.endsWith(".of_mode1.29_u"))
      list(
        name,
        u.map((each) => shiftTime(mode(each, 1.29), shift!)),
      );
    else if (name.startsWith("shift"))
      list(
        name,
        t.map((each) => shiftTime(each, shift!)),
      );
    else if (name.startsWith("mode"))
      list(
        name,
        name.endsWith("density_at_t")
          ? t.map((each) => modeDensity(each, scale!))
          : u.map((each) => mode(each, scale!)),
      );
    else if (name.endsWith("density_at_t"))
      list(
        name,
        t.map((each) => logitNormalDensity(each, mean!, std!)),
      );
    else if (name.endsWith("t_from_z"))
      list(
        name,
        z.map((each) => logitNormal(each, mean!, std!)),
      );
    else
      list(
        name,
        inside.map((each) => timestep(each, { kind: "logit-normal", mean: mean!, std: std! })),
      );
  }
}

const CASES: Readonly<Record<string, (golden: Golden, produce: Produce) => void>> = {
  waver_12b_count: counts,
  attn_window_partition: windows,
  train_timestep_sampling: times,
};

export default defineCase({
  cases: Object.keys(CASES),
  run: (golden, produce) => Object.entries(CASES).find(([name]) => golden.name.startsWith(name))?.[1](golden, produce),
});
