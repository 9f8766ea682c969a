/** The ancestry of one artefact, from the store's records. */
import { Digest, type Lineage, type Store } from "../types.ts";
import { html, type Markup, memory, plural } from "./markup.ts";

/** What one artefact was made of. `isRepeated`: drawn in full elsewhere in the tree. */
export interface Ancestor {
  readonly role: string;
  readonly digest: string;
  readonly record: Lineage | null;
  readonly inputs: readonly Ancestor[];
  readonly isRepeated: boolean;
  /** Inputs of the same role beyond those that are drawn. */
  readonly numMore: number;
}

/** A set is made of hundreds of clips; a tree that lists them all shows nothing. */
const DRAWN_PER_ROLE = 3;
const DEPTH = 12;

export async function ancestry(store: Store, digest: string, signal: AbortSignal): Promise<Ancestor> {
  const seen = new Set<string>();
  const walk = async (role: string, at: string, depth: number): Promise<Ancestor> => {
    signal.throwIfAborted();
    const parsed = Digest.safeParse(at);
    const record = parsed.success ? await store.lineage(parsed.data) : null;
    if (record === null || depth >= DEPTH || seen.has(at)) {
      return {
        role,
        digest: at,
        record,
        inputs: [],
        isRepeated: seen.has(at) && (record?.inputs.length ?? 0) > 0,
        numMore: 0,
      };
    }
    seen.add(at);
    const byRole = Map.groupBy(record.inputs, (input) => input.role);
    const inputs: Ancestor[] = [];
    let numMore = 0;
    for (const [name, all] of byRole) {
      for (const input of all.slice(0, DRAWN_PER_ROLE)) inputs.push(await walk(name, input.digest, depth + 1));
      numMore += Math.max(0, all.length - DRAWN_PER_ROLE);
    }
    return { role, digest: at, record, inputs, isRepeated: false, numMore };
  };
  return walk("", digest, 0);
}

const short = (digest: string): string => digest.replace(/^sha256:/, "").slice(0, 10);

/** Said elsewhere in the box. */
const SAID = new Set(["waver", "seed", "model"]);

/** One line of the options that shaped it: numbers and short words, also of a recipe inside; no paths, no deeper nests. */
function optionsLine(options: Readonly<Record<string, unknown>>): string {
  const flat = Object.entries(options).flatMap(([name, value]) =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? Object.entries(value)
      : [[name, value] as const],
  );
  const plain = flat.filter(
    ([name, value]) =>
      !SAID.has(name) &&
      (typeof value === "number" ||
        (typeof value === "string" && value !== "" && value.length <= 60 && !/[/{]|sha256:/.test(value))),
  );
  return plain
    .map(([name, value]) => `${name} ${String(value)}`)
    .slice(0, 7)
    .join(", ");
}

type Names = Readonly<Record<string, string>>;

function node({ role, digest, record, inputs, isRepeated, numMore }: Ancestor, names: Names): Markup {
  const title = record?.name ?? names[digest] ?? record?.kind ?? "a file of yours";
  return html`<li><div class="node">${role ? html`<span class="role">${role}</span>` : ""}<strong>${title}</strong>
${record && record.name !== undefined && record.name !== record.kind ? html`<span class="kind">${record.kind}</span>` : ""}<code title="${digest}">${short(digest)}</code>
${record ? html`<small>${record.by.operation}${record.by.plugin ? ` · ${record.by.plugin}` : ""} ${record.by.version}${record.seed === undefined ? "" : ` · seed ${record.seed}`} · ${memory(record.bytes)}</small>` : html`<small>as it was found</small>`}
${record && optionsLine(record.options) ? html`<small class="options">${optionsLine(record.options)}</small>` : ""}
${isRepeated ? html`<small class="options">drawn above</small>` : ""}</div>
${inputs.length > 0 ? html`<ul>${inputs.map((input) => node(input, names))}${numMore > 0 ? html`<li><div class="node more">and ${plural(numMore, "more")}</div></li>` : ""}</ul>` : ""}</li>`;
}

export const lineageTree = (root: Ancestor, names: Names): Markup => html`<ul class="tree">${node(root, names)}</ul>`;
