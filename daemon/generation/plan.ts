/**
 * What a `generate` request would take, from shapes alone: its networks are loaded without data and run once a stage, and
 * the engine counts. No weights are loaded, and nothing here knows a model: whatever the components compute is what is counted.
 */
import {
  type Accelerator,
  type Codec,
  type Conditioning,
  type Context,
  type Denoiser,
  type Guide,
  type PassOf,
  type Pick,
  type Picks,
  type TextEncoder,
  takes,
  type Used,
} from "../../plugins/index.ts";
import { adapterBytes } from "./adapters.ts";
import { optionsOf } from "./conditions.ts";
import { type Plan, StagePlan } from "./figures.ts";
import { negativeOf, type Pipeline } from "./pipeline.ts";
import { withReading } from "./reading.ts";
import { type GenerateInput, keepsWhole, samplesOf } from "./request.ts";
import { planSampling } from "./sampling.ts";
import { type Shape, shapeOf } from "./shape.ts";
import { busy, type RanksPlan, sentBytes, sharingOf } from "./sharing.ts";
import { inTiles, sidesFor } from "./tiles.ts";

type Engine = typeof import("../runner/generation/outlines.ts");

/** `asRank`: the plan of a process that is one of the request's ranks, and is as fast as one. */
export async function planGenerate(
  request: GenerateInput,
  picks: Picks,
  model: Pipeline,
  ctx: Context,
  { asRank = false } = {},
): Promise<Plan> {
  const engine = await import("../runner/generation/outlines.ts");
  return withReading(await new Planner({ request, picks, model, ctx, engine, asRank }).plan(), model);
}

interface Parts {
  readonly request: GenerateInput;
  readonly picks: Picks;
  readonly model: Pipeline;
  readonly ctx: Context;
  readonly engine: Engine;
  readonly asRank: boolean;
}

/** How often a stage is done, and what it has in memory beside what it makes. */
interface Counted {
  readonly stage: StagePlan["stage"];
  readonly component: string;
  readonly passes: number;
  /** Times that the measured work is done, when it is not one pass. */
  readonly times?: number;
  readonly besideBytes?: number;
  /** What it has between two passes. */
  readonly betweenBytes?: number;
}
/** Of one batch through one denoiser. */
interface Passes {
  total: number;
  steps: number;
}

class Planner {
  #stages: StagePlan[] = [];
  readonly #sizes = new Map<string, ReturnType<Engine["sizesOf"]>>();
  readonly #request: GenerateInput;
  readonly #picks: Picks;
  readonly #model: Pipeline;
  readonly #ctx: Context;
  readonly #engine: Engine;

  readonly #asRank: boolean;
  readonly #sharing: ReturnType<typeof sharingOf>;
  /** Of adapters, by denoiser. */
  readonly #adapters = new Map<string, number>();
  #sentBytes = 0;
  /** Ranks at work at a time, on average. */
  #busy = 1;

  constructor({ request, picks, model, ctx, engine, asRank }: Parts) {
    this.#asRank = asRank;
    this.#sharing = sharingOf(request);
    this.#request = request;
    this.#picks = picks;
    this.#model = model;
    this.#ctx = ctx;
    this.#engine = engine;
  }

  async plan(): Promise<Plan> {
    const [request, model, ctx, engine] = [this.#request, this.#model, this.#ctx, this.#engine];
    const samples = samplesOf(request).length;
    const batch = Math.min(request.batchSize, samples);
    using held = new engine.Held();
    using useCodec = await this.#codecFor(request.tileSize ?? null);
    const codec = await useCodec({});
    const networks = [model.family, ...(model.family2 === undefined ? [] : [model.family2])];
    const uses = [];
    for (const each of networks)
      uses.push(await ctx.outline("family", each.id, optionsOf(request, each, "family", ctx)));
    try {
      const families: Denoiser[] = [];
      for (const use of uses) families.push(await use({}));
      const [family] = families as [Denoiser];
      const shape = shapeOf(request, model, { codec, family }, ctx);
      const texts = held.keep(await this.#texts(family, batch));
      const image = held.keep(await this.#images(family, batch));
      const known = held.keep(this.#knownFrames(codec, family, shape));
      const passes = await this.#passes(shape);
      const sampling = await planSampling({ request, model, picks: this.#picks, ctx }, family, shape, batch);
      const batches = Math.ceil(samples / batch);
      const cache = this.#picks["cache"] as Pick | undefined;
      const atPreview = new Map<string, number>();
      for (const [i, network] of families.entries()) {
        const { total, steps } = passes[i] as Passes;
        const cold = total > steps ? 2 : Math.min(1, total); // first passes of each prompt: the others find its keys and values
        const component = networks[i]?.name as string;
        const conditions = held.bytes([texts, known, image]);
        const besideBytes = conditions + sampling.besidePass;
        const told = { shape: shape.latents, batch, texts, known, image };
        const before = engine.outlinedBytes();
        using accelerator = cache === undefined ? undefined : await this.#accelerator(cache);
        // what it will leave out is not known, what it remembers is
        const pass = (branch: PassOf["branch"]) => () => {
          const whole = () => engine.forward(network, told);
          const of = { network: i, branch, call: 0, step: 0, numSteps: shape.numSteps };
          void (accelerator === undefined ? whole() : accelerator.during(of, whole));
        };
        this.#stage({ stage: "denoise", component, passes: cold * batches, besideBytes }, network, pass("positive"));
        const kept = engine.outlinedBytes() - before;
        const warm = {
          ...{ passes: (total - cold) * batches, besideBytes: besideBytes + cold * kept },
          betweenBytes: conditions + cold * kept + sampling.betweenPasses,
        };
        this.#stage({ stage: "denoise", component, ...warm }, network, pass("negative"));
        atPreview.set(component, warm.besideBytes + shape.latents.reduce((a, b) => a * b, 4 * batch));
        const loras = (i === 1 ? request.lora2 : undefined) ?? request.lora;
        this.#adapters.set(component, await adapterBytes(loras, ctx));
        if (this.#sharing === null) continue;
        const { blocks = 0 } = this.#sizes.get(component) ?? {};
        const { latents } = shape;
        this.#sentBytes += sentBytes(
          {
            ...{ passes: total * batches, steps: steps * batches, texts: held.bytes(texts) },
            passBytes: engine.passTraffic(
              ctx.device,
              pass("positive"),
              { latents, patch: network.patch, blocks },
              this.#sharing,
            ),
            latents: latents.reduce((a, b) => a * b, 4 * batch),
            beside: held.bytes([known, image]),
          },
          this.#sharing,
          engine,
        );
        if (i === 0) this.#busy = busy(this.#sharing, total / Math.max(1, steps), batch);
      }
      this.#previews(codec, shape, atPreview);
      this.#decode(codec, shape, samples);
      return this.#sum(shape, samples, await this.#tiles(family, shape, samples));
    } finally {
      for (const use of uses) use[Symbol.dispose]();
    }
  }

  #codecFor(side: number | null): Promise<Used<"codec">> {
    const { id, path, options } = inTiles(this.#model, side, this.#ctx).codec;
    return this.#ctx.outline("codec", id, { path, ...options });
  }

  #knownFrames(codec: Codec, family: Denoiser, shape: Shape): ReturnType<Engine["knownFrames"]> {
    const isGiven = this.#request.image !== undefined;
    return this.#stage({ stage: "known frames", component: this.#model.codec.name, passes: 1 }, codec, () =>
      this.#engine.knownFrames(family, codec, shape, isGiven),
    );
  }

  /** Between two steps the codec takes a small frame, beside what is held then. */
  #previews(codec: Codec, { latents }: Shape, beside: ReadonlyMap<string, number>): void {
    const seconds = this.#stages.reduce((sum, each) => sum + (each.stage === "denoise" ? each.seconds : 0), 0);
    const bytes = this.#engine.previewBytes(this.#ctx.device, codec, latents, seconds);
    for (const [i, each] of this.#stages.entries())
      if (each.stage === "denoise" && bytes > 0)
        this.#stages[i] = { ...each, peakBytes: Math.max(each.peakBytes, (beside.get(each.component) ?? 0) + bytes) };
  }

  #decode(codec: Codec, shape: Shape, samples: number): void {
    this.#stage({ stage: "decode", component: this.#model.codec.name, passes: samples }, codec, () =>
      this.#engine.decode(codec, shape.latents),
    );
  }

  /** The side of tiles, the largest that fits beside the denoiser, or else the one that takes least; null: frames stay whole. */
  async #tiles(family: Denoiser, shape: Shape, samples: number): Promise<number | null> {
    const { tileSize } = this.#request;
    if (tileSize !== undefined) return tileSize === 0 ? null : tileSize;
    const { codec, family: first, family2 } = this.#model;
    const offload = this.#offloaded();
    const denoisers = [first.name, family2?.name ?? first.name].map((name) => {
      const { whole = 0, byBlocks = null } = this.#sizes.get(name) ?? {};
      return offload.includes(name) ? (byBlocks ?? whole) : whole;
    });
    const beside = (this.#sizes.get(codec.name)?.whole ?? 0) + Math.max(...denoisers);
    const peak = (): number =>
      Math.max(...this.#stages.filter((each) => each.component === codec.name).map((each) => each.peakBytes));
    let chosen: number | null = null;
    let [least, best] = [peak(), this.#stages];
    for (const side of sidesFor(this.#model, shape, this.#ctx)) {
      if (beside + least <= this.#ctx.memoryBudget) break;
      this.#stages = best.filter(({ component }) => component !== codec.name);
      using use = await this.#codecFor(side);
      const tiled = await use({});
      using held = new this.#engine.Held();
      held.keep(this.#knownFrames(tiled, family, shape));
      this.#decode(tiled, shape, samples);
      if (peak() < least) [chosen, least, best] = [side, peak(), this.#stages];
    }
    this.#stages = best;
    return chosen;
  }

  async #accelerator({ id, ...options }: Pick): Promise<Accelerator> {
    return (await this.#ctx.use("accelerate", id, options))({});
  }

  /** Every text goes through every encoder once. What comes out is told to the network. */
  async #texts(family: Denoiser, batch: number): Promise<Conditioning[]> {
    const request = this.#request;
    const texts = [...new Set([...samplesOf(request).map(({ prompt }) => prompt), negativeOf(request, this.#model)])];
    const made: Conditioning[] = [];
    for (const component of this.#model.texts) {
      using use = await this.#ctx.outline("encodeText", component.id, {
        ...optionsOf(request, component, "encodeText", this.#ctx),
        ...(request.maxTokens === undefined ? {} : { maxTokens: request.maxTokens }),
      });
      const encoder: TextEncoder = await use({});
      const { textLength } = family;
      const length = textLength === undefined ? undefined : (request.maxTokens ?? textLength);
      made.push(
        this.#stage({ stage: "text", component: component.name, passes: texts.length, times: 1 }, encoder, () =>
          this.#engine.encodeTexts(encoder, texts, batch, length),
        ),
      );
    }
    return made;
  }

  async #images(family: Denoiser, batch: number): Promise<ReturnType<Engine["encodeImages"]>> {
    const { image } = this.#model;
    if (image === undefined || family.numImages === undefined) return undefined;
    using use = await this.#ctx.outline("encodeImage", image.id, { path: image.path, ...image.options });
    const encoder = await use({});
    const pictures = family.numImages;
    return this.#stage({ stage: "image", component: image.name, passes: pictures, times: 1 }, encoder, () =>
      this.#engine.encodeImages(encoder, pictures, batch),
    );
  }

  /** Passes of one batch through the first denoiser and the second. */
  async #passes({ numSteps }: Shape): Promise<[Passes, Passes]> {
    const open = async ({ id, ...options }: Pick): Promise<Guide> => (await this.#ctx.use("guide", id, options))({});
    const first = await open(this.#picks["guide"] as Pick);
    const given = this.#picks["guide2"] as Pick | undefined;
    const second = given === undefined ? first : await open(given);
    const from = this.#model.family2?.from;
    const passes: [Passes, Passes] = [
      { total: 0, steps: 0 },
      { total: 0, steps: 0 },
    ];
    const { shift = 1 } = this.#request;
    for (let step = 0; step < numSteps; step++) {
      const u = 1 - step / numSteps;
      const t = (shift * u) / (1 + (shift - 1) * u);
      const which = from !== undefined && t < from ? 1 : 0;
      passes[which].steps += 1;
      passes[which].total += (which === 0 ? first : second).passes?.({ step, numSteps }) ?? 2;
    }
    return passes;
  }

  /** Runs `work` once without data, counts it as often as it will be done, and hands its result on. */
  #stage<T>(
    { stage, component, passes, times = passes, besideBytes = 0, betweenBytes = 0 }: Counted,
    { module }: Readonly<Record<"module", Denoiser["module"]>>,
    work: () => T,
  ): T {
    const { result, flops, seconds, peakBytes } = this.#engine.measured(this.#ctx.device, work);
    const at = this.#stages.findIndex((each) => each.stage === stage && each.component === component);
    const before = this.#stages[at];
    if ((passes === 0 && before === undefined) || flops + peakBytes === 0) return result;
    const sizes = this.#engine.sizesOf(module, this.#ctx.device);
    this.#stages.splice(at < 0 ? this.#stages.length : at, at < 0 ? 0 : 1, {
      stage,
      component,
      passes: passes + (before?.passes ?? 0),
      flops: flops * times + (before?.flops ?? 0),
      seconds: seconds * times + (before?.seconds ?? 0),
      peakBytes: Math.max(peakBytes + besideBytes, betweenBytes, before?.peakBytes ?? 0),
      ...{ weightBytes: sizes.whole, readBytes: 0 },
    });
    this.#sizes.set(component, sizes);
    return result;
  }

  /** Components whose weights come and go: as the request says, or where they do not fit beside the codec and what they compute. */
  #offloaded(): string[] {
    const { offload } = this.#request;
    const { family, family2, texts, codec } = this.#model;
    if (offload === "none" || keepsWhole(this.#request)) return [];
    const able = [family, ...(family2 === undefined ? [] : [family2])]
      .filter(({ id }) => takes("family", id, "offload", this.#ctx))
      .concat(texts.filter(({ id }) => takes("encodeText", id, "offload", this.#ctx)));
    const fits = (name: string, bytes: number): boolean => {
      const most = Math.max(...this.#stages.filter((each) => each.component === name).map((each) => each.peakBytes));
      return (this.#sizes.get(codec.name)?.whole ?? 0) + bytes + most <= this.#ctx.memoryBudget;
    };
    return able.flatMap(({ name }) => {
      const { whole = 0, byBlocks = null } = this.#sizes.get(name) ?? {};
      return byBlocks !== null && (offload === "blocks" || !fits(name, whole)) ? [name] : [];
    });
  }

  /** As they are kept on this device, and what of them is read at every pass. */
  #weightsOf({ component, weightBytes: stored, passes }: StagePlan, offload: readonly string[]): Partial<StagePlan> {
    const sizes = this.#sizes.get(component);
    const adapters = this.#adapters.get(component) ?? 0;
    if (this.#sharing?.shardWeights === true && this.#adapters.has(component))
      return { weightBytes: sizes?.inParts(this.#sharing.ranks / this.#sharing.replicas) ?? stored };
    if (!offload.includes(component)) return { weightBytes: adapters + stored };
    return { weightBytes: adapters + (sizes?.byBlocks ?? stored), readBytes: passes * (sizes?.blocks ?? 0) };
  }

  /** A rank's part: of a sequence its share of the tokens; of the time as much as is not others'. */
  #shared(stage: StagePlan): StagePlan {
    if (this.#sharing === null || stage.stage !== "denoise") return stage;
    const { ranks, replicas } = this.#sharing;
    // ranks on one CPU share its threads
    const isFaster = this.#asRank || this.#ctx.device !== "cpu";
    return {
      ...stage,
      peakBytes: (stage.peakBytes * replicas) / ranks,
      seconds: isFaster ? stage.seconds / this.#busy : stage.seconds,
    };
  }

  #ranks(stages: readonly StagePlan[]): RanksPlan | null {
    if (this.#sharing === null) return null;
    const { ranks: count, replicas } = this.#sharing;
    const denoise = stages.filter(({ stage }) => stage === "denoise");
    return {
      ...{ count, replicas },
      weightBytes: Math.max(0, ...denoise.map(({ weightBytes }) => weightBytes)),
      peakBytes: Math.max(0, ...denoise.map(({ peakBytes }) => peakBytes)),
      sentBytes: this.#sentBytes,
    };
  }

  #sum({ width, height, numFrames, numSteps }: Shape, samples: number, tileSize: number | null): Plan {
    const offload = this.#offloaded();
    const order = StagePlan.shape.stage.options;
    const stages = this.#stages
      .map((stage) => this.#shared({ ...stage, ...this.#weightsOf(stage, offload) }))
      .sort((a, b) => order.indexOf(a.stage) - order.indexOf(b.stage));
    const total = (value: (stage: StagePlan) => number): number => stages.reduce((sum, stage) => sum + value(stage), 0);
    const weights = new Map(stages.map(({ component, weightBytes }) => [component, weightBytes]));
    const all = [...weights.values()].reduce((sum, each) => sum + each, 0);
    const codec = weights.get(this.#model.codec.name) ?? 0;
    // a job holds its denoiser to the end
    const denoiser = Math.max(0, ...stages.map(({ stage, weightBytes }) => (stage === "denoise" ? weightBytes : 0)));
    const peakBytes = all + Math.max(...stages.map((each) => each.peakBytes));
    const leastBytes = Math.max(
      ...stages.map(
        ({ component, weightBytes, peakBytes }) =>
          codec + (component === this.#model.codec.name ? denoiser : weightBytes) + peakBytes,
      ),
    );
    return {
      device: this.#ctx.device,
      ...{ width, height, numFrames, numSteps, samples },
      flops: total(({ flops }) => flops),
      seconds: total(({ seconds }) => seconds),
      ...{ peakBytes, leastBytes, encodersStay: all <= this.#ctx.memoryBudget },
      offload,
      tileSize,
      ranks: this.#ranks(stages),
      rates: this.#engine.rates(this.#ctx.device),
      stages,
    };
  }
}
