/** What a person may call an artefact: its digest, the beginning of it, its name (the newest), or a file or folder. */
import { stat } from "node:fs/promises";
import { basename, resolve } from "node:path";
import { type Context, Digest, type Lineage, WaverError } from "../../../plugins/index.ts";

/** Hex digits from which a beginning is taken for a digest. */
const SHORTEST = 6;

export interface Artefact {
  readonly digest: Digest;
  /** Null for content that the store knows nothing of. */
  readonly lineage: Lineage | null;
}

/** Throws not_found or, when a beginning fits several, conflict. */
export async function findArtefact(
  of: string,
  ctx: Pick<Context, "store" | "signal">,
  kind?: string,
): Promise<Artefact> {
  const whole = Digest.safeParse(of);
  if (whole.success) return { digest: whole.data, lineage: await ctx.store.lineage(whole.data) };
  const facts = await stat(resolve(of)).catch(() => null);
  if (facts?.isFile() === true) {
    const digest = await fileDigest(resolve(of), ctx.signal);
    return { digest, lineage: await ctx.store.lineage(digest) };
  }
  const stored = /^[0-9a-f]{64}$/.exec(basename(of))?.[0];
  if (facts?.isDirectory() === true && stored !== undefined) return findArtefact(`sha256:${stored}`, ctx, kind);
  const known: Lineage[] = [];
  const beginning = of.replace(/^sha256:/, "");
  const isBeginning = beginning.length >= SHORTEST && /^[0-9a-f]+$/.test(beginning);
  for await (const lineage of ctx.store.list(kind)) {
    if (lineage.name === of || (isBeginning && lineage.digest.startsWith(`sha256:${beginning}`))) known.push(lineage);
  }
  const named = known.filter(({ name }) => name === of).toSorted((a, b) => (a.createdAt < b.createdAt ? 1 : -1));
  const found = named[0] ?? known[0];
  if (named.length === 0 && known.length > 1)
    throw new WaverError("conflict", `${of} is the beginning of ${known.length} digests`, { hint: "give more of it" });
  if (found !== undefined) return { digest: found.digest, lineage: found };
  throw new WaverError("not_found", `the store has no artefact called ${of}`, {
    hint: "give a digest, a name, or the path of a file",
  });
}

/** The newest artefact of a kind. */
export async function newest(kind: string, ctx: Pick<Context, "store">): Promise<Lineage> {
  let found: Lineage | null = null;
  for await (const lineage of ctx.store.list(kind))
    if (found === null || lineage.createdAt > found.createdAt) found = lineage;
  if (found === null)
    throw new WaverError("not_found", `the store has no ${kind}`, { hint: "make one first, or name it" });
  return found;
}

async function fileDigest(path: string, signal: AbortSignal): Promise<Digest> {
  const hasher = new Bun.CryptoHasher("sha256");
  for await (const chunk of Bun.file(path).stream()) {
    if (signal.aborted) throw new WaverError("cancelled", "the job was cancelled");
    hasher.update(chunk);
  }
  return Digest.parse(`sha256:${hasher.digest("hex")}`);
}
