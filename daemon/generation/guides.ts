/** The guides of one batch: one for each denoiser, or one for both. What they remember goes with a sample that is killed. */
import type { Context, Guide, GuideMemory, Pick, Picks } from "../../plugins/index.ts";

type Saved = ReturnType<GuideMemory["save"]>;

export class Guides {
  private constructor(readonly each: readonly Guide[]) {}

  static async open({ guide, guide2 }: Picks, ctx: Context): Promise<Guides> {
    const each: Guide[] = [];
    for (const { id, ...options } of [guide, guide2].filter((pick) => pick !== undefined) as Pick[])
      each.push(await (await ctx.use("guide", id, options))({}));
    return new Guides(each);
  }

  /** That of the first denoiser or the second. */
  of(which: 0 | 1): Guide {
    return this.each[which] ?? (this.each[0] as Guide);
  }

  /** Tensors for the caller to free, under names that `restore` knows. */
  save(): Saved {
    return Object.fromEntries(
      this.each.flatMap(({ memory }, i) =>
        Object.entries(memory?.save() ?? {}).map(([name, tensor]) => [`${i}.${name}`, tensor] as const),
      ),
    );
  }

  restore(saved: Saved): void {
    for (const [i, { memory }] of this.each.entries()) {
      const own = Object.entries(saved).filter(([name]) => name.startsWith(`${i}.`));
      memory?.restore(Object.fromEntries(own.map(([name, tensor]) => [name.slice(`${i}.`.length), tensor])));
    }
  }
}
