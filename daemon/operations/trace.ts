/** Walks the records of what an artefact was made from, or of what was made from it. */
import { stat } from "node:fs/promises";
import { resolve } from "node:path";
import { z } from "zod";
import { type Context, Digest, defineOperation, Lineage } from "../../plugins/index.ts";
import { findArtefact } from "./lineage/artefact.ts";

/** Records in one answer: a source may have a million descendants. */
const MOST = 2000;

const input = z.strictObject({
  of: z.string().min(1).meta({ description: "digest, beginning of a digest, name, or path of a file", positional: 0 }),
  direction: z
    .enum(["up", "down"])
    .default("up")
    .meta({ description: "up: what it was made from; down: what was made from it" }),
  depth: z.int().positive().max(100).default(20).meta({ description: "steps to walk" }),
});

const Node = z.object({
  depth: z.int(),
  /** `outside` for content that the store does not keep. */
  kind: z.string(),
  name: z.string().nullable(),
  operation: z.string().nullable(),
  digest: Digest,
  /** Null for content that lies outside the store, such as a source video. */
  lineage: Lineage.nullable(),
});
const Edge = z.object({ from: Digest, to: Digest, role: z.string() });

const output = z.object({
  root: Digest,
  nodes: z.array(Node),
  /** From what was made to what it was made from. */
  edges: z.array(Edge),
  /** True when the walk stopped at its limits. */
  cut: z.boolean(),
  /** The recipe in the file's own metadata, when a video was named. */
  metadata: z.record(z.string(), z.unknown()).nullable(),
});
type Output = z.output<typeof output>;

export const trace = defineOperation({
  kind: "query",
  summary: "shows what an artefact was made from, with every option, or what was made from it",
  runs: "worker",
  input,
  output,
  slots: {},
  examples: ["waver trace mine", "waver trace out/ball.mp4", "waver trace sha256:3f2a91 --direction down"],
  async run({ of, direction, depth }, _, ctx) {
    const { digest } = await findArtefact(of, ctx);
    const metadata = await metadataOf(of, ctx);
    const walked = await walk(digest, metadata, direction, depth, ctx);
    return { root: digest, ...walked, metadata };
  },
});

type Link = { readonly digest: Digest; readonly role: string };

async function walk(
  root: Digest,
  metadata: Output["metadata"],
  direction: "up" | "down",
  depth: number,
  ctx: Context,
): Promise<Pick<Output, "nodes" | "edges" | "cut">> {
  const nodes = new Map<Digest, Output["nodes"][number]>();
  const edges: Output["edges"] = [];
  let cut = false;
  let level: Digest[] = [root];
  for (let at = 0; level.length > 0; at++) {
    const next = new Set<Digest>();
    for (const digest of level) {
      if (nodes.has(digest)) continue;
      if (nodes.size >= MOST) {
        cut = true;
        break;
      }
      const lineage = await ctx.store.lineage(digest);
      nodes.set(digest, {
        depth: at,
        kind: lineage?.kind ?? "outside",
        name: lineage?.name ?? null,
        operation: lineage?.by.operation ?? null,
        digest,
        lineage,
      });
      // A file that was copied out of the store and changed its container still names its inputs in its own metadata.
      const up: Link[] = lineage?.inputs ?? (digest === root ? digestsIn(metadata) : []);
      const links = direction === "up" ? up : await madeFrom(digest, ctx);
      if (at === depth && links.length > 0) cut = true;
      if (at === depth) continue;
      for (const link of links) {
        edges.push(
          direction === "up"
            ? { from: digest, to: link.digest, role: link.role }
            : { from: link.digest, to: digest, role: link.role },
        );
        next.add(link.digest);
      }
    }
    level = cut ? [] : [...next];
    await ctx.breathe();
  }
  return { nodes: [...nodes.values()], edges, cut };
}

async function madeFrom(digest: Digest, ctx: Context): Promise<Link[]> {
  const links: Link[] = [];
  for (const child of await ctx.store.children(digest)) {
    const inputs = (await ctx.store.lineage(child))?.inputs ?? [];
    links.push({ digest: child, role: inputs.find((each) => each.digest === digest)?.role ?? "input" });
  }
  return links;
}

async function metadataOf(of: string, ctx: Context): Promise<Output["metadata"]> {
  const path = resolve(of);
  const isFile = await stat(path).then(
    (facts) => facts.isFile(),
    () => false,
  );
  if (!isFile) return null;
  // A file of another kind has no such thing.
  return ctx.media.readMetadata(path).catch(() => null);
}

/** Digests anywhere in a recipe, by the name of the field that holds them. */
function digestsIn(value: unknown, role = "input"): Link[] {
  const digest = Digest.safeParse(value);
  if (digest.success) return [{ digest: digest.data, role }];
  if (Array.isArray(value)) return value.flatMap((each) => digestsIn(each, role));
  if (value === null || typeof value !== "object") return [];
  return Object.entries(value).flatMap(([key, each]) => digestsIn(each, key));
}
