/** Waver 4.5: a caption begins with the style of its clip and ends with its quality; prompts are made to look the same. */
import type { Prompt } from "../index.ts";

/** The paper's six styles (figure 20 and its text), in words that a captioner would use. */
export const STYLES: Readonly<Record<string, string>> = {
  real: "Live-action video",
  "2d-anime": "2D anime style",
  "3d-anime": "3D animation style",
  game: "Video game footage",
  cg: "Computer-generated imagery",
  synthetic: "Synthetic video",
};

interface Tags {
  readonly style?: string | undefined;
  readonly quality: string;
  readonly avoid: string;
}

/** What is there already is not said twice, so that tagging twice is tagging once. */
export function tagged({ text, negative, ...rest }: Prompt, { style, quality, avoid }: Tags): Prompt {
  const words = style === undefined ? "" : (STYLES[style] ?? style);
  return { ...rest, text: after(before(text, words), quality), negative: negativeOf(negative, avoid) };
}

const has = (text: string, tag: string): boolean => text.toLowerCase().includes(tag.toLowerCase());
const sentence = (text: string): string => (/[.!?…。！？]$/.test(text) ? text : `${text}.`);

const before = (text: string, tag: string): string =>
  tag === "" || has(text, tag) ? text : `${sentence(tag)} ${text}`.trim();
const after = (text: string, tag: string): string =>
  tag === "" || has(text, tag) ? text : text === "" ? sentence(tag) : `${sentence(text)} ${sentence(tag)}`;
const negativeOf = (text: string, tag: string): string =>
  tag === "" || has(text, tag) ? text : text === "" ? tag : `${text}, ${tag}`;
