/**
 * What a rewriting model is told: one instruction for videos of about 5 seconds, one for about 10, each with examples of
 * training captions (Waver 4.6). The paper prints neither; these are ours, after what it says they ask for. The examples are
 * turns of the conversation: listed in the instruction, a small model copies them or answers in one sentence.
 */
import type { Message } from "./chat.ts";

/** Seconds from which a prompt is rewritten for 10: half way between the paper's two lengths. */
const LONG = 7.5;

const COMMON = `You rewrite prompts for a video generation model so that they read like the captions it was trained on.
Keep everything that the user asks for: subjects, counts, colours, text, names, style, language of quoted text. Add what is missing, in this order:
1. the kind of shot and the camera: distance, angle, and how it moves, or that it is still;
2. the subjects: how they look, what they wear, where they are in the frame;
3. the actions, one after another, each with the body parts and objects that take part;
4. the background, the light and the time of day;
5. the style, if it is not a plain live-action video (for instance 2D anime, 3D animation, game footage): name it first.
Describe only what can be seen. Never add sound, feelings of the viewer, cuts to other scenes, or subjects that contradict the prompt.`;

const FIVE = `The video lasts about 5 seconds: one or two actions fit. Write one paragraph of 60 to 100 words.`;
const TEN = `The video lasts about 10 seconds. If the actions of the prompt are over sooner, go on with what follows naturally from them, as three to five actions in their order of time. Write one paragraph of 100 to 170 words.`;

const EXAMPLES = {
  five: [
    [
      "a motorcyclist on a dirt track",
      "A medium shot from a low angle shows a motorcyclist in a red and white racing suit on a dusty motocross track. The camera pans to the right with him as he leans into a curve, his left boot skimming the ground. The rear wheel throws up a fan of brown earth and gravel. Behind him are a grassy bank and a line of hay bales, out of focus, in hard midday sun.",
    ],
    [
      "a cat at the window, rainy day",
      "A close-up of a tabby cat on a wooden windowsill, seen from the side with a still camera. The cat turns its head from the window towards the lens, its whiskers lit from behind, then lowers its chin onto its front paws and half closes its eyes. Raindrops run down the pane, and the garden beyond is a green blur in the soft light of an overcast afternoon.",
    ],
  ],
  ten: [
    [
      "two people in kayaks go down a river",
      "A wide shot of a river between pine-covered slopes, filmed from slightly above as the camera follows two yellow kayaks downstream. In the left kayak a woman in a blue helmet paddles with quick alternating strokes; in the right one a man in an orange life vest keeps pace half a length behind. They reach a band of white water, and both bows lift. The woman leans back and plants her paddle on the right to turn around a dark rock, while the man lets the current carry him past it on the other side. Spray covers both of them for a moment. Beyond the rapids the water turns smooth, the kayaks drift side by side, and the man raises his paddle over his head with both hands. The low sun behind them turns the spray golden.",
    ],
    [
      "anime girl reads a letter at a train station",
      "2D anime style. A medium shot shows a girl with short silver hair and a long grey coat on the platform of a small country station at dusk. The camera slowly moves closer. She looks down at a folded letter in her hands, opens it, and her eyes move along the lines. A train enters from the right, and its lit windows cast passing bands of light over her face; the wind lifts her hair and the hem of her coat. She presses the letter against her chest, raises her head and steps towards the opening door. Behind her the sky goes from orange to violet above rice fields and telegraph poles.",
    ],
  ],
} as const;

/** The conversation that a prompt for a video of so many seconds is put into; the paper's usual length is 5. */
export function rewritingTask(
  prompt: string,
  {
    seconds = 5,
    instruction,
  }: { readonly seconds?: number | undefined; readonly instruction?: string | undefined } = {},
): Message[] {
  const asked: Message = { role: "user", content: prompt };
  if (instruction !== undefined) return [{ role: "system", content: instruction }, asked];
  const regime = seconds > LONG ? "ten" : "five";
  const length = regime === "ten" ? TEN : FIVE;
  return [
    { role: "system", content: `${COMMON}\n${length}\nAnswer with the rewritten prompt alone.` },
    ...EXAMPLES[regime].flatMap(([example, caption]): Message[] => [
      { role: "user", content: example },
      { role: "assistant", content: caption },
    ]),
    asked,
  ];
}

/** Without the thoughts, labels and quotation marks that models put around an answer. */
export const plainAnswer = (text: string): string =>
  text
    .replace(/^[\s\S]*<\/think>/, "")
    .replace(/\s+/g, " ")
    .trim()
    .replace(/^(?:rewritten prompt|prompt)\s*:\s*/i, "")
    .replace(/^(["“])(.*)["”]$/, "$2")
    .trim();
