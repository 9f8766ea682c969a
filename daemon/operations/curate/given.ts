/** What a request says apart from its picks (a funnel recipe, a caption file) reaches the providers that take it. */
import type { Context, HookName, Pick } from "../../../plugins/index.ts";

/**
 * Each option goes to every pick whose provider declares one of that name; a pick's own value wins. `asked` are options
 * that a person gave for nothing else: one that nobody takes is named in a warning.
 */
export function withGiven(
  hook: HookName,
  picks: readonly Pick[],
  options: Readonly<Record<string, unknown>>,
  asked: readonly string[],
  ctx: Context,
): readonly Pick[] {
  const known = new Map(ctx.providers(hook).map((each) => [each.id, new Set(each.options)]));
  const takes = (pick: Pick, name: string): boolean => known.get(pick.id)?.has(name) === true;
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  for (const [name] of given)
    if (asked.includes(name) && !picks.some((pick) => takes(pick, name)))
      ctx.log("setting_ignored", { level: "warn", setting: name, reason: `no chosen provider of ${hook} takes it` });
  return picks.map((pick) => ({ ...Object.fromEntries(given.filter(([name]) => takes(pick, name))), ...pick }));
}
