/** Votes of people, from a JSON list or JSON lines. */
import { readFile } from "node:fs/promises";
import { WaverError, z } from "../index.ts";

export const Vote = z.object({
  /** Models that made the two videos. */
  a: z.string().min(1),
  b: z.string().min(1),
  winner: z.enum(["a", "b", "same"]),
  /** What was judged, e.g. motion quality; the whole when absent. */
  dimension: z.string().min(1).optional(),
});
export type Vote = z.output<typeof Vote>;

export async function readVotes(path: string): Promise<Vote[]> {
  const text = await readFile(path, "utf8").catch((cause: unknown) => {
    throw new WaverError("not_found", `there are no votes at ${path}`, { cause });
  });
  const rows = text.trimStart().startsWith("[")
    ? parsed(text, path)
    : text.split("\n").filter((line) => line.trim() !== "");
  const votes = (rows as unknown[]).map((row, i) => {
    const vote = Vote.safeParse(typeof row === "string" ? parsed(row, `${path}, line ${i + 1}`) : row);
    if (vote.success && vote.data.a !== vote.data.b) return vote.data;
    throw new WaverError(
      "invalid_input",
      `vote ${i + 1} of ${path} is not one: ${vote.success ? "both videos are of one model" : z.prettifyError(vote.error)}`,
      {
        hint: 'a vote is {"a": MODEL, "b": MODEL, "winner": "a", "b" or "same"}, and a dimension if there are several',
      },
    );
  });
  if (votes.length === 0) throw new WaverError("invalid_input", `${path} holds no votes`);
  return votes;
}

function parsed(text: string, where: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new WaverError("invalid_input", `${where} is not JSON`, { cause });
  }
}
