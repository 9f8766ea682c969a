#!/bin/sh
":" /* The shell reads from here to the closing mark, Node and Bun read the rest: a shell that execs Bun costs 2 ms, Node as a launcher 60 ms or more.
self=$(readlink -f "$0")
folder=${self%/*}
cache=${WAVER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/waver}
if [ -x "$cache/bin/bun" ] && { [ -d "$folder/../node_modules/zod" ] || [ "${self%/node_modules/*}" != "$self" ]; }; then
  export PATH="$PATH:$cache/bin"
  exec "$cache/bin/bun" "$folder/index.ts" "$@"
fi
if command -v node >/dev/null; then exec node "$self" "$@"; fi
if command -v bun >/dev/null; then exec bun "$self" "$@"; fi
echo "waver: neither Node nor Bun was found: install Node 20 or newer, then run: npm run setup (in ${folder%/cli})" >&2
exit 1
*/

// Reached when the shell found no finished set-up, and by `node cli/waver.mjs`, `bun cli/waver.mjs`.
import { existsSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { bin } from "./setup/cache.mjs";
import { handOver } from "./setup/process.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const root = dirname(here);
const bun = join(bin, "bun");
const hasPackages = existsSync(join(root, "node_modules", "zod")) || root.includes("/node_modules/");
if (!existsSync(bun) || !hasPackages) {
  process.stderr.write(`waver: not set up yet: run \`npm run setup\` in ${root}\n`);
  process.exitCode = 1;
} else {
  const env = { ...process.env, PATH: `${process.env.PATH ?? ""}${delimiter}${bin}` };
  handOver(bun, [join(here, "index.ts"), ...process.argv.slice(2)], env);
}
