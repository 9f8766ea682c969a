/** Negotiation before anything is loaded: needs against traits, bytes against the budget. A refusal lists every candidate and the one fact that refused it. */
import { type Need, WaverError } from "../../plugins/index.ts";
import type { RegisteredProvider, Registry } from "../plugins/registry.ts";

/**
 * Whether traits satisfy a `where`: null when they do, else the fact that refuses. A list trait must hold the wanted
 * value (or all of the wanted values); `{ min, max }` bounds a number; everything else must be equal.
 */
export function refusal(
  traits: Readonly<Record<string, unknown>>,
  where: Readonly<Record<string, unknown>>,
): string | null {
  for (const [name, wanted] of Object.entries(where)) {
    const trait = traits[name];
    if (trait === undefined) return `says nothing of ${name}`;
    if (!holds(trait, wanted)) return `${name} is ${said(trait)}, not ${said(wanted)}`;
  }
  return null;
}

function holds(trait: unknown, wanted: unknown): boolean {
  if (Array.isArray(trait) && !isSame(trait, wanted))
    return (Array.isArray(wanted) ? wanted : [wanted]).every((each) => trait.some((have) => isSame(have, each)));
  if (
    typeof trait === "number" &&
    wanted !== null &&
    typeof wanted === "object" &&
    ("min" in wanted || "max" in wanted)
  ) {
    const { min = Number.NEGATIVE_INFINITY, max = Number.POSITIVE_INFINITY } = wanted as { min?: number; max?: number };
    return trait >= min && trait <= max;
  }
  return isSame(trait, wanted);
}

const isSame = (a: unknown, b: unknown): boolean => Bun.deepEquals(a, b);
const said = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));

/** Providers that satisfy a need, in registry order. Throws no_provider or needs_unmet when none does. */
export function candidates(registry: Registry, need: Need, whose: string): RegisteredProvider[] {
  const all = registry.providers(need.hook);
  if (all.length === 0)
    throw new WaverError("no_provider", `${whose} needs a provider of ${need.hook}, and no installed plugin has one`, {
      hint: "waver plugins list shows what is installed and what failed to load",
    });
  const refused: { id: string; plugin: string; reason: string }[] = [];
  const fitting: RegisteredProvider[] = [];
  for (const provider of all) {
    const reason = refusal(provider.traits, need.where ?? {});
    if (reason === null) fitting.push(provider);
    else refused.push({ id: provider.id, plugin: provider.plugin, reason });
  }
  if (fitting.length > 0) return fitting;
  throw new WaverError(
    "needs_unmet",
    `${whose} needs a provider of ${need.hook} that none of the ${all.length} installed can be: ${refused.map((each) => `${each.id} (${each.reason})`).join("; ")}`,
    {
      data: { need, refused },
    },
  );
}

/** Checks the needs that a provider states; optional ones may go unmet. */
export function checkNeeds(registry: Registry, needs: readonly Need[] | undefined, whose: string): void {
  for (const need of needs ?? []) if (need.optional !== true) candidates(registry, need, whose);
}

export interface Claim {
  readonly hook: string;
  readonly id: string;
  readonly bytes: number;
}

/** Throws out_of_memory when `wanted` does not fit beside what is in use, naming the knob. */
export function admit(wanted: Claim, budget: number, inUse: readonly Claim[]): void {
  const used = inUse.reduce((sum, each) => sum + each.bytes, 0);
  if (used + wanted.bytes <= budget) return;
  const beside =
    inUse.length === 0
      ? ""
      : `, and ${inUse.map((each) => `${each.hook} ${each.id} (${size(each.bytes)})`).join(", ")} is in use`;
  throw new WaverError(
    "out_of_memory",
    `${wanted.hook} ${wanted.id} needs ${size(wanted.bytes)}; the memory budget is ${size(budget)}${beside}`,
    {
      hint: "raise memoryBudget in the configuration (or WAVER_MEMORY_BUDGET, in bytes), choose a smaller model or dtype, or leave blocks' weights outside (offload blocks)",
      data: { wanted, budget, inUse },
    },
  );
}

const size = (bytes: number): string =>
  bytes >= 1e9 ? `${(bytes / 1e9).toFixed(1)} GB` : `${Math.ceil(bytes / 1e6)} MB`;
