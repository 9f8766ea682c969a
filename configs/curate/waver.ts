/**
 * Waver's funnel (3.5, Fig. 10): six stages, each stricter than the last.
 *
 * P = said by the paper: which criteria a stage adds. Every number is C, our choice: the paper names none. Rules about
 * `ocr`, `aesthetic`, `watermark` and `quality` wait for their scorers; until a table has those measures the funnel logs
 * `rule_not_measured` and lets the clips pass. `quality.*` are probabilities of a flaw, as its 13 dimensions say (3.2).
 */
const flaw = (id: string, dimension: string, max: number, why: string) => ({
  id,
  measure: `quality.${dimension}`,
  max,
  why,
});

export default {
  summary: "Waver's six stages, 192p pre-training to 1080p refinement",
  // P (3.1): clips of 2 to 10 seconds.
  clip: { minSeconds: 2, maxSeconds: 10 },
  funnel: {
    name: "waver",
    stages: [
      {
        // P: keep as much as possible; remove excessive text and static videos. Trained at 192 x 352, 12 and 16 fps.
        id: "192p",
        rules: [
          { id: "size", measure: "basic.shortSide", min: 192, why: "training at 192p does not enlarge" },
          { id: "rate", measure: "basic.fps", min: 12, why: "the lowest training rate is 12 frames a second" },
          {
            id: "duration",
            measure: "basic.duration",
            min: 2,
            max: 10.05,
            why: "clips last 2 to 10 seconds (Waver 3.1)",
          },
          { id: "text", measure: "ocr.area", max: 0.2, why: "writing covers too much of it" },
          { id: "still", measure: "visual.still", max: 0.5, why: "half of its frames repeat" },
          {
            id: "static",
            measure: "motion.total",
            min: 0.5,
            why: "less than half a per cent of the width a second moves",
          },
        ],
      },
      {
        // P: aesthetics, stricter text and motion, an 8-dimension quality model: overall quality, black borders, texts or
        // watermarks, playback speed, perspective changes, motion stability.
        id: "480p",
        rules: [
          { id: "size", measure: "basic.shortSide", min: 480, why: "training at 480p does not enlarge" },
          { id: "rate", measure: "basic.fps", min: 16, why: "trained at 16 frames a second" },
          { id: "bits", measure: "basic.bitsPerPixel", min: 0.02, why: "so few bits leave blocks" },
          { id: "text", measure: "ocr.area", max: 0.05, why: "writing covers too much of it" },
          { id: "motion", measure: "motion.foreground", min: 1, why: "what moves by itself moves too little" },
          {
            id: "shake",
            measure: "motion.camera",
            max: 120,
            why: "the camera crosses the picture faster than once a second",
          },
          { id: "aesthetic", measure: "aesthetic.score", min: 4, why: "it is not pleasing (scale of 1 to 10)" },
          { id: "border", measure: "visual.border", max: 0.02, why: "it has black borders" },
          flaw("quality", "low", 0.5, "the quality model judges it poor"),
          flaw("watermark", "watermark", 0.5, "it carries a watermark"),
          flaw("speed", "speed", 0.5, "it plays too fast or too slow"),
          flaw("perspective", "perspective", 0.5, "the perspective jumps"),
          flaw("stability", "unstable", 0.5, "its motion is not steady"),
        ],
      },
      {
        // P: four more dimensions: subject cut off, overexposed, dark or blurry, image animation.
        id: "720p",
        rules: [
          { id: "size", measure: "basic.shortSide", min: 720, why: "training at 720p does not enlarge" },
          { id: "rate", measure: "basic.fps", min: 23.9, why: "trained at 24 frames a second" },
          { id: "bright", measure: "visual.bright", max: 0.25, why: "a quarter of it is overexposed" },
          { id: "dark", measure: "visual.dark", max: 0.5, why: "half of it is black" },
          { id: "blurry", measure: "visual.sharpness", min: 20, why: "it is soft" },
          { id: "aesthetic", measure: "aesthetic.score", min: 4.5, why: "it is not pleasing enough for this stage" },
          flaw("cutoff", "cutoff", 0.4, "its subject is cut off"),
          flaw("overexposed", "overexposed", 0.4, "it is overexposed"),
          flaw("dark-or-blurry", "dark", 0.4, "it is dark or blurry"),
          flaw("animation", "animation", 0.4, "it is a moved still image"),
        ],
      },
      {
        // P: adds definition and colour balance; sources and categories are balanced.
        id: "720p-ct",
        rules: [
          { id: "definition", measure: "visual.sharpness", min: 60, why: "it lacks definition" },
          { id: "colour", measure: "visual.saturation", min: 0.05, max: 0.85, why: "its colours are out of balance" },
          { id: "contrast", measure: "visual.contrast", min: 0.08, why: "its contrast is low" },
          {
            id: "sources",
            balance: "tag",
            maxShare: 0.4,
            prefer: "aesthetic.score",
            why: "no source may fill more than two fifths",
          },
        ],
      },
      {
        // P: real clips of 2K and 4K only; synthetic data joins, and hard motion is chosen by hand.
        id: "720p-sft",
        rules: [
          { id: "size", measure: "basic.shortSide", min: 1440, why: "only 2K and 4K clips are kept" },
          {
            id: "aesthetic",
            measure: "aesthetic.score",
            min: 5.5,
            why: "it is not pleasing enough to end the training on",
          },
        ],
      },
      {
        // P: clarity above all.
        id: "1080p",
        rules: [
          { id: "clarity", measure: "visual.sharpness", min: 120, why: "the refiner learns from the sharpest clips" },
        ],
      },
    ],
  },
};
