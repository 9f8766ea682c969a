/** T5 and umT5: encoders with their taps, tokenizers by exact ids. */
import { openCheckpoint, scope } from "../../../native/index.ts";
import { encoderWeights, readConfig } from "../../../plugins/t5/encoder.ts";
import { T5Encoder } from "../../../plugins/t5/model.ts";
import { UnigramTokenizer } from "../../../plugins/unigram.ts";
import { defineCase, type Produce } from "../case.ts";
import type { Golden } from "../golden.ts";
import { toTensor } from "../tensors.ts";

function encoders(golden: Golden, produce: Produce): void {
  const folder = golden.path(golden.params.checkpoint as string);
  using model = new T5Encoder(readConfig(folder));
  using weights = openCheckpoint(folder);
  model.load(encoderWeights(weights));
  for (const group of new Set(golden.inputs.map((name) => name.slice(0, name.lastIndexOf("."))))) {
    scope(() => {
      const ids = toTensor(golden.input(`${group}.input_ids`), "int64");
      const mask = golden.has(`${group}.attention_mask`)
        ? toTensor(golden.input(`${group}.attention_mask`), "int64")
        : undefined;
      produce(
        `${group}.last_hidden_state`,
        model.forward(ids, mask, (name, value) => produce(`${group}.${name}`, value)),
      );
    });
  }
}

interface Encoded {
  readonly text: string;
  readonly ids: number[];
}
interface Padded {
  readonly texts: readonly string[];
  readonly max_length: number;
  readonly input_ids: number[][];
}

async function tokenizers(golden: Golden, produce: Produce): Promise<void> {
  const tokenizer = UnigramTokenizer.load(golden.path(golden.params.tokenizer as string));
  const { published } = tokenizer;
  const eos = published.tokenToId("</s>") as number;
  const expected = golden.expected as { encode: Encoded[]; pad_truncate?: Padded };
  const encode = await Promise.all(
    expected.encode.map(async ({ text }) => {
      const plain = tokenizer.encode(text);
      const ids = [...plain, eos];
      return {
        text,
        ids,
        ids_no_special: plain,
        tokens: (await published.encode(text, null, { addSpecialTokens: false })).getTokens(),
        decoded: await published.decode(ids, false),
        decoded_skip_special: await published.decode(ids, true),
      };
    }),
  );
  produce.json("encode", encode);
  if (expected.pad_truncate === undefined) return;
  const { texts, max_length } = expected.pad_truncate;
  const rows = texts.map((text) => [...tokenizer.encode(text).slice(0, max_length - 1), eos]);
  const pad = (row: number[], value: number): number[] => [
    ...row,
    ...new Array<number>(max_length - row.length).fill(value),
  ];
  produce.json("pad_truncate", {
    ...expected.pad_truncate,
    input_ids: rows.map((row) => pad(row, published.tokenToId("<pad>") as number)),
    attention_mask: rows.map((row) =>
      pad(
        row.map(() => 1),
        0,
      ),
    ),
  });
}

export default defineCase({
  cases: ["umt5_encoder", "flan_t5_encoder", "tokenizer_t5_unigram", "tokenizer_umt5_unigram"],
  run: (golden, produce) => ("tokenizer" in golden.params ? tokenizers(golden, produce) : encoders(golden, produce)),
});
