/** `waver status`: the daemon, its processes and what waits. */
import type { Status } from "../../daemon/wire.ts";
import { toWaverError } from "../../plugins/errors.ts";
import { WaverCommand } from "../command.ts";
import { bytes, clock, padEnd, type Style, styleOf } from "../style.ts";

export class StatusCommand extends WaverCommand {
  static override readonly summary = "shows the daemon, its processes and what waits; exit code 1 when none runs";

  async run(): Promise<void> {
    const { flags } = await this.given();
    const json = flags["json"] === true;
    let status: Status;
    try {
      status = await this.client().status();
    } catch (error) {
      if (toWaverError(error).code !== "daemon_unreachable") throw error;
      process.stdout.write(
        json
          ? `${JSON.stringify({ type: "result", output: { running: false } })}\n`
          : "no daemon runs; any command that needs it starts it\n",
      );
      process.exitCode = 1;
      return;
    }
    process.stdout.write(
      json
        ? `${JSON.stringify({ type: "result", output: { running: true, ...status } })}\n`
        : described(status, styleOf(process.stdout)),
    );
  }
}

function described(
  { version, pid, uptime, home, jobs, runners, workers, listeners }: Status,
  { bold, dim }: Style,
): string {
  const counts = Object.entries(jobs)
    .filter(([, count]) => count > 0)
    .map(([state, count]) => `${count} ${state}`);
  const row = (name: string, text: string): string => `  ${dim(padEnd(name, 10))}  ${text}\n`;
  const lines = [
    `${bold("waver")} ${version}  process ${pid}, up ${clock(uptime)}\n`,
    row("home", home),
    row("listens", listeners.join(", ")),
    row("jobs", counts.join(", ") || "none yet"),
    row("workers", `${workers.busy} of ${workers.size} busy`),
  ];
  for (const { device, state, job, rssBytes, restarts, resident } of runners) {
    const facts = [
      state,
      ...(rssBytes > 0 ? [bytes(rssBytes)] : []),
      ...(restarts > 0 ? [`restarted ${restarts} times`] : []),
      ...(job === null ? [] : [job]),
    ];
    lines.push(row(device, facts.join(", ")));
    for (const { hook, id, bytes: size, idleSeconds } of resident)
      lines.push(row("", dim(`${hook} ${id}  ${bytes(size)}${idleSeconds > 0 ? `, idle ${clock(idleSeconds)}` : ""}`)));
  }
  return lines.join("");
}
