/** Errors as people and programs read them: one sentence, a stable code, what to do next. */
import { type ErrorBody, exitCode, toWaverError, WaverError } from "../plugins/errors.ts";
import { nearest } from "./nearest.ts";
import { plain, styleOf } from "./style.ts";

/** Writes the error and gives the exit code. With --json it goes to stdout, where the other lines are. */
export function fail(error: unknown, json: boolean): number {
  const body = toWaverError(error).toBody();
  if (json) process.stdout.write(`${JSON.stringify({ type: "error", error: body })}\n`);
  else process.stderr.write(`${sentence(body)}\n`);
  return exitCode(body.code);
}

export function sentence({ code, message, hint }: ErrorBody): string {
  const { red, bold, dim } = styleOf(process.stderr);
  const first = `${red(bold("error"))} ${code}: ${plain(message)}`;
  return hint === undefined ? first : `${first}\n  ${dim("hint:")} ${plain(hint)}`;
}

/** What oclif threw about the command line, in our words. `flags`: names that the command knows. */
export function commandLineError(error: unknown, command: string, flags: readonly string[]): unknown {
  if (!(error instanceof Error) || error instanceof WaverError) return error;
  const help = `all options: waver ${command} --help`;
  const unknown = (error as { flags?: unknown }).flags;
  if (Array.isArray(unknown) && /^Nonexistent flag/.test(error.message)) {
    const word = String(unknown[0]).split("=")[0] ?? "";
    const near = nearest(word.replace(/^--?(no-)?/, ""), flags);
    return new WaverError("unknown_option", `${command} has no option ${word}`, {
      hint: near === null ? help : `did you mean --${near}?`,
    });
  }
  const unexpected = (error as { args?: unknown }).args;
  if (Array.isArray(unexpected) && /^Unexpected argument/.test(error.message))
    return new WaverError("invalid_input", `${command} does not take ${plain(String(unexpected[0]))} here`, {
      hint: `words with spaces need quotes; ${help}`,
    });
  const value = /^Flag (--\S+) expects (.*)$/.exec(error.message);
  if (value !== null) return new WaverError("invalid_input", `${value[1]} needs a value`, { hint: help });
  if ((error as { oclif?: unknown }).oclif !== undefined)
    return new WaverError(
      "invalid_input",
      error.message
        .split("\n")
        .filter((line) => !line.startsWith("See more help"))
        .join(" ")
        .replace(/\s+/g, " ")
        .trim(),
      { hint: help },
    );
  return error;
}
