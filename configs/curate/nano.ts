/**
 * The quick start's funnel: a dozen short clips in, nothing that is broken, frozen or black out. Thresholds are ours and
 * lax: at this size every clip counts. No rule asks for a caption: a clip without one never gets into a set.
 */
export default {
  summary: "a handful of short clips for the nano model",
  // The nano model sees 17 frames at 8 a second: 2.1 s, but the shortest usable shot of the known videos has 1.2 s.
  clip: { minSeconds: 1.2, maxSeconds: 10 },
  funnel: {
    name: "nano",
    stages: [
      {
        id: "nano",
        rules: [
          {
            id: "duration",
            measure: "basic.duration",
            min: 1.2,
            why: "shorter clips do not fill the nano model's window",
          },
          { id: "size", measure: "basic.shortSide", min: 96, why: "the refiner learns from 96 pixels upwards" },
          { id: "rate", measure: "basic.fps", min: 8, why: "the nano model is trained at 8 frames a second" },
          { id: "still", measure: "visual.still", max: 0.9, why: "nine of ten frames repeat: nothing moves" },
          { id: "dark", measure: "visual.dark", max: 0.9, why: "nearly all of it is black" },
          { id: "bright", measure: "visual.bright", max: 0.9, why: "nearly all of it is white" },
          { id: "flat", measure: "visual.contrast", min: 0.02, why: "it is one plain colour" },
        ],
      },
    ],
  },
};
