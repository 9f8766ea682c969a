/** Qwen2: a forward with its cache and taps, greedy generation of a left-padded batch; the byte-level tokenizer and chat template. */
import { KVCache, scope, type Tensor } from "../../../native/index.ts";
import { BpeTokenizer } from "../../../plugins/bpe.ts";
import { ChatTemplate, type Message } from "../../../plugins/chat.ts";
import { loadModel } from "../../../plugins/qwen2/checkpoint.ts";
import type { CausalLM } from "../../../plugins/qwen2/model.ts";
import { defineCase, type Produce } from "../case.ts";
import { continueRows, rowsOf } from "../generation.ts";
import type { Golden } from "../golden.ts";
import { toTensor } from "../tensors.ts";

function languageModel(golden: Golden, produce: Produce): void {
  using model = loadModel(golden.path(golden.params.checkpoint as string), { device: "cpu" });
  scope(() => forward(model, golden, produce));
  const prompts = rowsOf(golden.input("generate.input_ids"), golden.input("generate.attention_mask"));
  const count = golden.reference("generate.step_logits").shape[1] as number;
  continueRows(golden, produce, prompts, (observe) => model.generate(prompts, { maxTokens: count, observe }));
}

function forward(model: CausalLM, golden: Golden, produce: Produce): void {
  const ids = toTensor(golden.input("forward.input_ids"), "int64");
  const mask = toTensor(golden.input("forward.attention_mask"), "int64");
  using cache = new KVCache(ids.size(1));
  // what stands at padded places is compared as zero
  const shown = (value: Tensor): Tensor => value.mul(mask.unsqueeze(-1).float());
  const tap = (name: string, value: Tensor): void => scope(() => produce(`forward.${name}`, shown(value)));
  const logits = model.forward(ids, { mask, cache, tap });
  const [k, v] = cache.layer(0);
  const real = mask.unsqueeze(1).unsqueeze(-1).float();
  produce("forward.cache.k.layer0", k.mul(real));
  produce("forward.cache.v.layer0", v.mul(real));
  produce("forward.logits", shown(logits));
}

interface Encoded {
  readonly text: string;
}
interface Padded {
  readonly texts: readonly string[];
  readonly max_length: number;
}
interface Chat {
  readonly messages: readonly Message[];
  readonly add_generation_prompt: boolean;
}

async function tokenizer(golden: Golden, produce: Produce): Promise<void> {
  const folder = golden.path(golden.params.tokenizer as string);
  const tokenizer = BpeTokenizer.load(folder);
  const expected = golden.expected as unknown as { encode: Encoded[]; pad_truncate: Padded; chat: Chat[] };
  produce.json(
    "encode",
    expected.encode.map(({ text }) => {
      const ids = tokenizer.encode(text);
      return {
        text,
        ids,
        ids_no_special: tokenizer.encode(text, { around: false }),
        tokens: ids.map((id) => tokenizer.published.idToToken(id)),
        decoded: tokenizer.decode(ids, { special: true }),
        decoded_skip_special: tokenizer.decode(ids),
      };
    }),
  );
  const { texts, max_length } = expected.pad_truncate;
  const rows = texts.map((text) => tokenizer.encode(text).slice(0, max_length));
  const fill = (row: number[], value: number): number[] => [
    ...row,
    ...new Array<number>(max_length - row.length).fill(value),
  ];
  produce.json("pad_truncate", {
    ...expected.pad_truncate,
    input_ids: rows.map((row) => fill(row, tokenizer.id("<|endoftext|>"))),
    attention_mask: rows.map((row) =>
      fill(
        row.map(() => 1),
        0,
      ),
    ),
  });
  const template = ChatTemplate.load(folder);
  produce.json(
    "chat",
    expected.chat.map(({ messages, add_generation_prompt }) => {
      const text = template.render(messages, { answer: add_generation_prompt });
      return { messages, add_generation_prompt, text, ids: tokenizer.encode(text) };
    }),
  );
}

export default defineCase({
  cases: ["qwen2_causal_lm", "tokenizer_qwen2_bpe"],
  run: (golden, produce) =>
    "tokenizer" in golden.params ? tokenizer(golden, produce) : languageModel(golden, produce),
});
