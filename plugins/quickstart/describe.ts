/** Results -> the description that the report is written from. Shapes: plugins/report/description.ts, which checks them. */
import type { Generated, Results } from "./results.ts";
import { type Figures, type Verdict, verdictOf } from "./verdict.ts";

export interface Told {
  readonly verdict: Verdict;
  readonly best: Generated | null;
  readonly description: Record<string, unknown>;
}

export function describe(
  results: Results,
  how: { readonly isShort: boolean; readonly createdAt: string; readonly totalSeconds: number; readonly cores: number },
): Told {
  const verdict = verdictOf(figuresOf(results), how);
  const best = bestOf(results);
  const peakBytes = Math.max(0, ...results.stages.map((stage) => stage.peakBytes));
  const { memorised, firstFrame } = figuresOf(results);
  const description = {
    title: "Waver quick start",
    createdAt: how.createdAt,
    verdict: { tone: verdict.tone, headline: verdict.headline, sentences: verdict.sentences },
    figures: [
      { label: "time in all", value: clock(how.totalSeconds), note: how.cores === 1 ? "1 core" : `${how.cores} cores` },
      ...(peakBytes > 0 ? [{ label: "highest memory", value: `${(peakBytes / 1e9).toFixed(1)} GB` }] : []),
      {
        label: "clips to learn from",
        value: String(results.training.length),
        note: `of ${results.funnel.numIn} found`,
      },
      ...(memorised
        ? [
            {
              label: "prompt found again",
              value: `${memorised.count} of ${memorised.of}`,
              note: `chance: ${Number((memorised.chance * memorised.of).toFixed(1))}`,
            },
          ]
        : []),
      ...(firstFrame
        ? [{ label: "first frame kept", value: `${firstFrame.psnr.toFixed(1)} dB`, note: "against the VAE's own copy" }]
        : []),
    ],
    sources: results.sources.map(({ file, start, end, caption, note }) => ({
      file,
      start,
      end,
      caption,
      ...(note ? { note } : {}),
    })),
    funnel: results.funnel,
    curves: results.curves,
    textToVideo: sheets(results.textToVideo, results),
    textToImage: sheets(results.textToImage, { ...results, training: [] }).map(({ prompt, samples }) => ({
      prompt,
      samples,
    })),
    imageToVideo: results.imageToVideo.map(({ id, prompt, image, file, seed }) => {
      const psnr = results.judged.firstFrame?.items[id]?.["firstFramePsnr"];
      return { prompt, image, file, seed, ...(psnr === undefined ? {} : { firstFramePsnr: psnr }) };
    }),
    heldOut: results.heldOut.map(({ id, caption, low, refined, high }) => {
      const found = results.judged.refined?.items[id];
      return {
        caption,
        low,
        refined,
        high,
        ...(found ? { distanceLow: found["distanceEnlarged"], distanceRefined: found["distanceRefined"] } : {}),
      };
    }),
    measures: verdict.measures,
    ...(best?.digest
      ? { best: { digest: best.digest, file: best.refined ?? best.file, caption: best.prompt, names: results.names } }
      : {}),
    stages: results.stages,
    totalSeconds: how.totalSeconds,
    versions: results.versions,
    shortcomings: [...verdict.shortcomings, ...results.shortcomings],
  };
  return { verdict, best, description };
}

/** Samples of one prompt together, beside the clip that the prompt was trained on. */
function sheets(
  samples: readonly Generated[],
  { training, judged }: Results,
): { prompt: string; training?: object; samples: object[] }[] {
  return [...Map.groupBy(samples, ({ prompt }) => prompt)].map(([prompt, group]) => {
    const clip = training.find(({ caption }) => caption === prompt);
    return {
      prompt,
      ...(clip ? { training: { file: clip.video, caption: clip.caption } } : {}),
      samples: group.map(({ id, file, seed, refined }) => {
        const scores = judged.clips?.items[id];
        const nearest = training.find((each) => each.id === judged.clips?.notes[id]);
        return {
          file,
          seed,
          ...(refined ? { refined } : {}),
          ...(scores && nearest
            ? {
                nearest: {
                  caption: nearest.caption,
                  isPrompted: scores["memorised"] === 1,
                  similarity: scores["nearestSimilarity"],
                  clip: { file: nearest.video, caption: nearest.caption },
                },
              }
            : {}),
        };
      }),
    };
  });
}

function figuresOf({ judged, textToVideo, vaePsnr }: Results): Figures {
  const { clips, firstFrame, refined } = judged;
  const of = (summary: Readonly<Record<string, number>>, name: string): number => summary[name] ?? 0;
  const pair = (name: string, reference: string) =>
    clips ? { generated: of(clips.summary, name), training: of(clips.summary, reference) } : null;
  return {
    vaePsnr,
    memorised: clips
      ? {
          count: of(clips.summary, "numMemorised"),
          of: textToVideo.length,
          chance: of(clips.summary, "memorisedChance"),
          centred: clips.summary["numMemorisedCentred"],
        }
      : null,
    firstFrame: firstFrame
      ? { psnr: of(firstFrame.summary, "firstFramePsnr"), of: of(firstFrame.summary, "numItems") }
      : null,
    refined: refined
      ? {
          nearer: of(refined.summary, "numNearer"),
          of: of(refined.summary, "numItems"),
          enlarged: of(refined.summary, "distanceEnlarged"),
          distance: of(refined.summary, "distanceRefined"),
        }
      : null,
    motion: pair("motion", "referenceMotion"),
    sharpness: pair("sharpness", "referenceSharpness"),
  };
}

/** The memorised sample most like its training clip; failing that, the one most like any. A refined one wins a tie. */
function bestOf({ textToVideo, judged }: Results): Generated | null {
  const score = ({ id, refined }: Generated): number => {
    const scores = judged.clips?.items[id];
    return (scores?.["memorised"] ?? 0) * 10 + (scores?.["promptedSimilarity"] ?? 0) + (refined ? 1e-6 : 0);
  };
  return textToVideo.toSorted((a, b) => score(b) - score(a))[0] ?? null;
}

function clock(seconds: number): string {
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
}
