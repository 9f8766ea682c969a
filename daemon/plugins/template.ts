/** The plugin that `waver plugins new` writes: one scorer that works, its test, and how to go on. */
import { HOOK_API } from "../../plugins/index.ts";

const ENTRY = "./index.ts";
const RANGE = HOOK_API.split(".").slice(0, 2).join(".");

/** Files of a new plugin, by path. */
export const template = (name: string): Readonly<Record<string, string>> => ({
  "package.json": `${JSON.stringify(
    {
      name,
      version: "0.1.0",
      description: "A scorer for Waver",
      type: "module",
      keywords: ["waver-plugin"],
      waver: { plugin: ENTRY, hookApi: RANGE },
      files: ["index.ts"],
    },
    null,
    2,
  )}\n`,
  "index.ts": `import { definePlugin, provide, z } from "waver/plugin";

export default definePlugin({
  name: "${name}",
  version: "0.1.0",
  hookApi: "${RANGE}",
  config: z.strictObject({}),
  provides: [
    provide("score", {
      id: "${name.replace(/^.*\//, "").replace(/^waver-plugin-/, "")}",
      summary: "mean brightness of a clip, from 0 to 1",
      runs: "worker",
      options: z.object({ gain: z.number().positive().default(1).meta({ description: "factor on the measure" }) }),
      // What this scorer wants to see: one decode serves all scorers.
      traits: {
        view: { width: 64, height: 64, fit: "stretch", rate: 2, format: "gray8", batch: 8 },
        measures: ["brightness"],
      },
      async run({ frames }, { options, ctx }) {
        let [sum, count] = [0, 0];
        for await (const { data } of frames) {
          await ctx.breathe();
          for (const pixel of data) sum += pixel;
          count += data.length;
        }
        return { brightness: count === 0 ? 0 : (options.gain * sum) / count / 255 };
      },
    }),
  ],
});
`,
  "index.test.ts": `import { expect, test } from "bun:test";
import { checkPlugin, failures } from "waver/plugin/testing";
import plugin from "${ENTRY}";

// Needs \`waver\` resolvable (bun link waver, or a dependency); without it, run: waver plugins check .
test("keeps the contract", async () => {
  expect(failures(await checkPlugin(plugin))).toEqual([]);
});
`,
  "README.md": `# ${name}

A Waver plugin with one scorer.

    waver plugins check .     # the contract suites
    waver plugins add .       # install this folder; the running daemon picks it up
    waver plugins remove ${name}

Hooks, types and errors come from \`waver/plugin\`, which is always the running host: it is no dependency.
`,
});
