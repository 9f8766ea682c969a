/**
 * Child process: runs the contract suites on one plugin folder and writes the findings as JSON.
 * `bun --no-install suite.ts FOLDER OUTPUT`.
 */
import { rename, writeFile } from "node:fs/promises";
import { outcomeOf } from "../../plugins/check.ts";
import type { Finding } from "../../plugins/testing.ts";
import { checkPlugin } from "../../plugins/testing.ts";
import { folderDigest } from "./digest.ts";
import { readManifest } from "./discover.ts";
import { importForeign } from "./host.ts";

const [folder, output] = process.argv.slice(2);
if (folder === undefined || output === undefined) throw new Error("suite.ts FOLDER OUTPUT");

async function findings(path: string): Promise<Finding[]> {
  const read = await readManifest(path);
  const subject = "package.json";
  if ("reason" in read) return [{ subject, check: "describes a plugin", ok: false, reason: read.reason }];
  const described: Finding = { subject, check: "describes a plugin", ok: true, reason: "" };
  try {
    return [
      described,
      ...(await checkPlugin(
        await importForeign(Bun.resolveSync(read.manifest.waver.plugin, path), await folderDigest(path)),
      )),
    ];
  } catch (error) {
    return [
      described,
      { subject: read.manifest.name, check: "can be imported", ok: false, reason: outcomeOf(error).reason },
    ];
  }
}

await writeFile(`${output}.part`, JSON.stringify(await findings(folder)));
await rename(`${output}.part`, output);
process.exit(0);
