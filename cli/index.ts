/**
 * The program `waver`. Help over everything is printed from what is kept on disk; every other command line goes to
 * oclif with the one command it needs.
 */
import { version } from "../package.json";
import { fail } from "./failure.ts";
import { targetOf, wantsJson } from "./target.ts";

export async function main(argv: readonly string[]): Promise<number> {
  const json = wantsJson(argv);
  try {
    const words = argv[0] === "help" ? [...argv.slice(1), "--help"] : argv;
    const first = words.find((word, i) => !word.startsWith("-") && !takesValue(words[i - 1]));
    if (words.includes("--version") && first === undefined) {
      process.stdout.write(`waver ${version}\n`);
      return 0;
    }
    if (first === undefined && words.every((word, i) => isGlobal(word) || takesValue(words[i - 1]))) {
      const { overview } = await import("./overview.ts");
      process.stdout.write(await overview(targetOf(argv)));
      return 0;
    }
    const { runCommand } = await import("./commands.ts");
    await runCommand(words, first ?? "", targetOf(argv));
    return typeof process.exitCode === "number" ? process.exitCode : 0;
  } catch (error) {
    return fail(error, json);
  }
}

const takesValue = (word: string | undefined): boolean => word === "--url" || word === "--token" || word === "--home";
const isGlobal = (word: string): boolean =>
  ["--help", "-h", "--json"].includes(word) || /^--(url|token|home)(=|$)/.test(word);

if (import.meta.main) {
  // `waver jobs list | head`: the reader has had enough.
  process.stdout.on("error", (error: NodeJS.ErrnoException) => process.exit(error.code === "EPIPE" ? 0 : 1));
  const code = await main(process.argv.slice(2));
  // Sockets that are kept alive would hold the process for seconds.
  process.exit(code);
}
