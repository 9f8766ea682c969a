/** What the figures mean, in plain words: which were reached, which were not, and what was never asked for. */

/** Figures of one quick start; null where a part did not run. */
export interface Figures {
  /** dB that the VAE keeps of the training clips. */
  readonly vaePsnr: number;
  readonly memorised: {
    readonly count: number;
    readonly of: number;
    readonly chance: number;
    readonly centred?: number | undefined;
  } | null;
  readonly firstFrame: { readonly psnr: number; readonly of: number } | null;
  readonly refined: {
    readonly nearer: number;
    readonly of: number;
    readonly enlarged: number;
    readonly distance: number;
  } | null;
  /** Mean change between frames, and sharpness: of generated clips, and of the training clips. */
  readonly motion: { readonly generated: number; readonly training: number } | null;
  readonly sharpness: { readonly generated: number; readonly training: number } | null;
}

export interface Measured {
  readonly name: string;
  readonly meaning: string;
  readonly value: number | null;
  readonly unit?: string;
  readonly chance?: number;
  readonly required?: string;
  readonly goal?: string;
  readonly isReached: boolean | null;
  readonly remark?: string;
}

export interface Verdict {
  readonly tone: "good" | "mixed" | "bad";
  readonly headline: string;
  readonly sentences: string[];
  readonly measures: Measured[];
  readonly shortcomings: string[];
}

/** A quarter of the clips: three times what chance gives with twelve prompts. The goal is two thirds. */
const REQUIRED_SHARE = 1 / 4;
const GOAL_SHARE = 2 / 3;
/** dB under which a first frame is no longer recognisably the given one. */
const REQUIRED_PSNR = 20;
const REQUIRED_REFINED = 2 / 3;

const NOT_RUN = "not run";

export function verdictOf(figures: Figures, how: { readonly isShort: boolean }): Verdict {
  const { memorised, firstFrame, refined } = figures;
  const asked = !how.isShort;
  const reached = (value: boolean): boolean | null => (asked ? value : null);
  const measures: Measured[] = [];
  const sentences: string[] = [];
  const shortcomings: string[] = [];

  const needed = memorised ? Math.ceil(memorised.of * REQUIRED_SHARE) : 0;
  const makesIt = memorised !== null && memorised.count >= needed;
  measures.push({
    name: "Memorisation",
    meaning:
      "generated clips whose nearest training clip is the prompted one, in EfficientNet-Lite0 features (a substitute for CLIP)",
    value: memorised?.count ?? null,
    unit: memorised ? `of ${memorised.of}` : "",
    isReached: memorised ? reached(makesIt) : null,
    ...(memorised
      ? {
          chance: memorised.chance * memorised.of,
          ...(asked ? { required: `at least ${needed}`, goal: String(Math.round(memorised.of * GOAL_SHARE)) } : {}),
        }
      : { remark: NOT_RUN }),
  });
  if (memorised?.centred !== undefined)
    measures.push({
      name: "Memorisation, blur set aside",
      meaning:
        "the same when the mean of all generated clips, and that of all training clips, is taken off first: what every generated clip has in common no longer decides",
      value: memorised.centred,
      unit: `of ${memorised.of}`,
      chance: memorised.chance * memorised.of,
      isReached: null,
    });
  if (memorised) {
    sentences.push(
      `${memorised.count} of ${memorised.of} generated clips are nearest to the training clip that they were asked for; chance alone gives ${round(memorised.chance * memorised.of)}.`,
    );
    if (asked && !makesIt)
      shortcomings.push(
        `Memorisation was not reached: ${memorised.count} of ${memorised.of} where ${needed} were required. More training steps are the first thing to try (--steps).`,
      );
  }

  const keepsFrame = firstFrame !== null && firstFrame.psnr > REQUIRED_PSNR;
  measures.push({
    name: "First frame kept",
    meaning:
      "image to video: mean PSNR of the first decoded frame against the VAE's own reconstruction of the given image",
    value: firstFrame?.psnr ?? null,
    unit: "dB",
    isReached: firstFrame ? reached(keepsFrame) : null,
    ...(firstFrame && asked ? { required: `over ${REQUIRED_PSNR} dB` } : {}),
    ...(firstFrame ? {} : { remark: NOT_RUN }),
  });
  if (firstFrame) {
    sentences.push(
      `Given a first frame, the model keeps it at ${firstFrame.psnr.toFixed(1)} dB (mean of ${firstFrame.of} clips).`,
    );
    if (asked && !keepsFrame)
      shortcomings.push(
        `The first frame is kept at ${firstFrame.psnr.toFixed(1)} dB where over ${REQUIRED_PSNR} dB were required.`,
      );
  }

  const refinesAtLeast = refined ? Math.ceil(refined.of * REQUIRED_REFINED) : 0;
  const refines = refined !== null && refined.nearer >= refinesAtLeast;
  measures.push({
    name: "Refined latents nearer",
    meaning:
      "held-out clips whose refined latent is nearer (L2) to the true high-resolution latent than that of the bicubically enlarged clip",
    value: refined?.nearer ?? null,
    unit: refined ? `of ${refined.of}` : "",
    isReached: refined ? reached(refines) : null,
    ...(refined
      ? {
          chance: refined.of / 2,
          ...(asked ? { required: `at least ${refinesAtLeast}` } : {}),
          remark: `mean distance ${refined.distance.toPrecision(3)} refined, ${refined.enlarged.toPrecision(3)} enlarged`,
        }
      : { remark: NOT_RUN }),
  });
  if (refined) {
    sentences.push(
      `The refiner brings ${refined.nearer} of ${refined.of} held-out clips nearer to their true high resolution.`,
    );
    if (asked && !refines)
      shortcomings.push(
        `The refiner's measure was not reached: ${refined.nearer} of ${refined.of} where ${refinesAtLeast} were required.`,
      );
  }

  measures.push(
    {
      name: "VAE",
      meaning: "PSNR of training clips after the VAE alone: nothing that the model makes can be truer",
      value: figures.vaePsnr,
      unit: "dB",
      isReached: null,
    },
    share(
      "Motion",
      "mean change of luma between frames (a substitute for optical flow), as a share of the training clips'",
      figures.motion,
    ),
    share("Sharpness", "variance of the Laplacian, as a share of the training clips'", figures.sharpness),
  );
  return {
    ...judged({ asked, makesIt, keepsFrame: firstFrame === null || keepsFrame, refines: refined === null || refines }),
    sentences,
    measures,
    shortcomings,
  };
}

function share(name: string, meaning: string, pair: { generated: number; training: number } | null): Measured {
  const value = pair && pair.training > 0 ? pair.generated / pair.training : null;
  return { name, meaning, value, isReached: null, ...(value === null ? { remark: NOT_RUN } : {}) };
}

function judged(facts: {
  asked: boolean;
  makesIt: boolean;
  keepsFrame: boolean;
  refines: boolean;
}): Pick<Verdict, "tone" | "headline"> {
  if (!facts.asked)
    return { tone: "mixed", headline: "A short run: every stage worked, and quality was not asked for" };
  if (!facts.makesIt) return { tone: "bad", headline: "The model does not make what it is asked for yet" };
  const lacks = [
    ...(facts.keepsFrame ? [] : ["it loses the given first frame"]),
    ...(facts.refines ? [] : ["its refiner gains too little"]),
  ];
  if (lacks.length === 0) return { tone: "good", headline: "The model makes the clips it was asked for" };
  return { tone: "mixed", headline: `The model makes the clips it was asked for, but ${lacks.join(" and ")}` };
}

const round = (value: number): string => String(Number(value.toFixed(1)));
