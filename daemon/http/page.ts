/** A plain page with operations and jobs. No script, so that nothing in a prompt or a file name can run. */
import { createHash } from "node:crypto";
import type { Daemon } from "./daemon.ts";

const STYLE = `body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1a1a1a}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}
code{font-family:ui-monospace,monospace}`;
const STYLE_HASH = createHash("sha256").update(STYLE).digest("base64");

export async function page({ jobs, registry }: Daemon): Promise<Response> {
  const docs = registry().docs();
  const recent = await jobs.list({ limit: 50 });
  const operations = docs.operations.map(
    ({ name, kind, summary }) =>
      `<tr><td><code>${escaped(name)}</code></td><td>${kind}</td><td>${escaped(summary)}</td></tr>`,
  );
  const rows = recent.map(({ id, operation, state, createdAt, seconds, progress }) => {
    const how = progress === undefined ? "" : `${progress.stage} ${progress.done}/${progress.total}`;
    return `<tr><td><a href="/v1/jobs/${id}"><code>${id}</code></a></td><td>${escaped(operation)}</td><td>${state}</td><td>${escaped(how)}</td><td>${escaped(createdAt)}</td><td>${seconds.toFixed(1)} s</td></tr>`;
  });
  const html = `<!doctype html><html lang="en"><meta charset="utf-8"><title>waver</title><style>${STYLE}</style>
<h1>waver ${escaped(docs.version)}</h1><p><a href="/generate">generate</a> · <a href="/openapi.json">OpenAPI document</a> · <a href="/v1/status">status</a> · <a href="/v1/plugins">plugins</a> · <a href="/v1/doctor">doctor</a></p>
<h2>Jobs</h2><table><tr><th>job</th><th>operation</th><th>state</th><th>progress</th><th>accepted</th><th>took</th></tr>${rows.join("")}</table>
<h2>Operations</h2><table><tr><th>operation</th><th>kind</th><th>what it does</th></tr>${operations.join("")}</table></html>`;
  return new Response(html, {
    headers: {
      "Content-Type": "text/html; charset=utf-8",
      "Content-Security-Policy": `default-src 'none'; style-src 'sha256-${STYLE_HASH}'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'`,
    },
  });
}

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};
const escaped = (text: string): string => text.replace(/[&<>"']/g, (c) => ENTITIES[c] ?? c);
