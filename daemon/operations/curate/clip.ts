/** A clip's identity: the content of its source and its span, whatever the file is called. */
import { type Clip, Digest, type Source } from "../../../plugins/index.ts";
import type { Span } from "./shots.ts";

export function clipOf(source: Source, { start, end }: Span): Clip {
  // Microseconds: the resolution in which spans are decoded.
  const text = `${source.id} ${start.toFixed(6)} ${end.toFixed(6)}`;
  return {
    id: Digest.parse(`sha256:${new Bun.CryptoHasher("sha256").update(text).digest("hex")}`),
    source: source.id,
    start,
    end,
  };
}
