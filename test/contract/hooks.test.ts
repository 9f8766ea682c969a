/** The hooks as data: a change of any of them is a change of HOOK_API. */
import { expect, test } from "bun:test";
import { join } from "node:path";
import { jsonSchemaOf } from "../../plugins/check.ts";
import { HOOK_API, hooks } from "../../plugins/hooks.ts";

const SNAPSHOT = join(import.meta.dir, "hooks.json");

const current = {
  hookApi: HOOK_API,
  hooks: Object.fromEntries(
    Object.entries(hooks).map(([name, { mode, portable, since, input, output, traits }]) => [
      name,
      {
        mode,
        portable,
        since,
        input: jsonSchemaOf(input, "input"),
        output: jsonSchemaOf(output, "output"),
        traits: jsonSchemaOf(traits, "input"),
      },
    ]),
  ),
};

test("the hooks are those of this HOOK_API", async () => {
  // bun test test/contract/hooks.test.ts with WAVER_ACCEPT_HOOKS=1, after moving HOOK_API.
  if (process.env["WAVER_ACCEPT_HOOKS"] === "1") await Bun.write(SNAPSHOT, `${JSON.stringify(current, null, 2)}\n`);
  const kept = (await Bun.file(SNAPSHOT).json()) as typeof current;
  if (kept.hookApi === HOOK_API) expect(current.hooks).toEqual(kept.hooks);
  // With the version moved, the snapshot must move in the same commit.
  expect(current).toEqual(kept);
});
