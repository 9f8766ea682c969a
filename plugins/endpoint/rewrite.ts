/** A prompt, rewritten by whatever model answers (Waver 4.6). */
import type { Context } from "../define.ts";
import { plainAnswer, rewritingTask } from "../rewriting.ts";
import type { Prompt } from "../types.ts";
import { type AskOptions, answerTo, configured, type Endpoint } from "./chat.ts";

export interface RewriteOptions extends AskOptions {
  readonly instruction?: string | undefined;
  readonly maxTokens: number;
  readonly temperature: number;
}

export async function rewrittenBy(
  prompt: Prompt,
  endpoint: Endpoint | undefined,
  options: RewriteOptions,
  ctx: Context,
): Promise<Prompt> {
  const known = configured(endpoint, "rewriting prompts");
  const { instruction, maxTokens, temperature } = options;
  const messages = rewritingTask(prompt.text, { seconds: prompt.seconds, instruction });
  const body = JSON.stringify({ model: known.model, max_tokens: maxTokens, temperature, messages });
  const text = plainAnswer(await answerTo(known, body, options, ctx));
  if (text === "") ctx.log("rewrite_empty", { prompt: prompt.text });
  const rewritten = text === "" ? prompt.text : text;
  ctx.log("prompt_rewritten", { from: prompt.text, to: rewritten, by: known.model });
  return { ...prompt, text: rewritten };
}
