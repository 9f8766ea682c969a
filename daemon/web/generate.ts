/** The generate page: a form from the operation's own schema, the job's progress with its previews, and the clip. */
import { bodyOf, type Field, fieldsOf, grouped, make, type Operation } from "./form.ts";

interface Progress {
  readonly stage: string;
  readonly done: number;
  readonly total: number;
  readonly eta?: number;
  readonly detail?: { readonly preview?: { readonly sample: number; readonly step: number } };
}
interface Problem {
  readonly message: string;
  readonly hint?: string;
}
interface Item {
  readonly digest: string;
  readonly task: string;
}

const OPERATION = "generate";
/** Fields that speak of places on the daemon's machine, and of what the page does not show: it shows the video. */
const LEFT_OUT: ReadonlySet<string> = new Set([
  "output",
  "promptFile",
  "latents",
  "keepFrames",
  "keepLatents",
  "batchSize",
  "profile",
]);
/** Longest side of a picture that is sent: more than any model makes. */
const LARGEST = 2048;

const find = <E extends HTMLElement>(id: string): E => document.getElementById(id) as E;
const [form, go, cancel] = [
  find<HTMLFormElement>("form"),
  find<HTMLButtonElement>("go"),
  find<HTMLButtonElement>("cancel"),
];
const [problem, state, stage] = [find("problem"), find("state"), find("stage")];
const bar = find<HTMLProgressElement>("bar");

async function ask<T>(method: string, path: string, body?: unknown): Promise<T> {
  const response = await fetch(path, {
    method,
    ...(body === undefined ? {} : { body: JSON.stringify(body), headers: { "Content-Type": "application/json" } }),
  });
  const answer: unknown = await response.json();
  if (!response.ok) throw answer;
  return answer as T;
}

const sentence = (given: unknown): string => {
  const { message, hint } = given as Partial<Problem>;
  if (typeof message !== "string") return "The daemon cannot be reached.";
  return hint === undefined ? `${message}.` : `${message}. ${hint}.`;
};

/** Scaled down, so that it fits into a request whatever the camera made. */
async function keep(picture: File): Promise<string> {
  const image = await createImageBitmap(picture);
  const scale = Math.min(1, LARGEST / Math.max(image.width, image.height));
  const canvas = make("canvas", { width: Math.round(image.width * scale), height: Math.round(image.height * scale) });
  canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
  const { path } = await ask<{ path: string }>("POST", "/v1/uploads", { data: canvas.toDataURL("image/jpeg", 0.95) });
  return path;
}

/** Shows a job to its end; a page that is opened again goes on with the one it left. */
function follow(job: string): void {
  go.disabled = true;
  cancel.hidden = bar.hidden = false;
  bar.removeAttribute("value");
  state.textContent = "Waiting for its turn.";
  cancel.onclick = () => void ask("DELETE", `/v1/jobs/${job}`);
  const events = new EventSource(`/v1/jobs/${job}/events`);
  let shown = "";
  const over = (text: string): void => {
    events.close();
    go.disabled = false;
    cancel.hidden = bar.hidden = true;
    state.textContent = text;
    history.replaceState(null, "", "/generate");
  };
  events.addEventListener("progress", (event) => {
    const { progress } = JSON.parse(event.data) as { progress: Progress };
    const { stage: what, done, total, eta, detail } = progress;
    if (total > 0) bar.value = done / total;
    state.textContent = `${what} ${done} of ${total}${eta === undefined || done >= total ? "" : `, ${Math.ceil(eta)} s left`}`;
    const key = detail?.preview === undefined ? "" : `${detail.preview.sample}-${detail.preview.step}`;
    if (key === "" || key === shown) return;
    shown = key;
    const next = make("img", { className: "preview", alt: `preview after step ${detail?.preview?.step}` });
    // Shown when it is there: a picture that is gone by then leaves the one before.
    next.onload = () => events.readyState !== EventSource.CLOSED && stage.replaceChildren(next);
    next.src = `/v1/jobs/${job}/preview?at=${key}`;
  });
  events.addEventListener("state", (event) => {
    const {
      state: now,
      error,
      output,
    } = JSON.parse(event.data) as { state: string; error?: Problem; output?: { items: Item[] } };
    if (now === "running") state.textContent = "Loading.";
    if (now === "cancelled") over("Cancelled.");
    if (now === "failed") {
      over("");
      problem.textContent = sentence(error);
    }
    if (now === "done") {
      stage.replaceChildren(...(output?.items ?? []).map(shownItem));
      over("Done.");
    }
  });
}

function shownItem({ digest, task }: Item): HTMLElement {
  const src = `/v1/artifacts/${digest}/content`;
  return task === "t2i"
    ? make("img", { src, alt: "the image that was made" })
    : make("video", { src, controls: true, loop: true, autoplay: true, muted: true, playsInline: true });
}

async function begin(): Promise<void> {
  const { operations } = await ask<{ operations: Operation[] }>("GET", "/v1/operations");
  const operation = operations.find(({ name }) => name === OPERATION);
  if (operation === undefined) throw { message: "this daemon has no operation to generate with" };
  const models = operations.some(({ name }) => name === "models-list")
    ? (await ask<{ models: { name: string }[] }>("POST", "/v1/models-list", {})).models.map(({ name }) => name)
    : [];
  const fields = fieldsOf(operation, LEFT_OUT, keep, models);
  const isMain = (field: Field): boolean => field.kind === "main";
  // What to show comes first, whatever the order of the schema.
  fields.sort((a, b) => Number(b.name === "prompt") - Number(a.name === "prompt"));
  find("first").append(...grouped(fields.filter(isMain)));
  find("rest").append(...grouped(fields.filter((field) => !isMain(field))));
  go.disabled = false;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    problem.textContent = "";
    go.disabled = true;
    submit(fields).catch((error: unknown) => {
      problem.textContent = sentence(error);
      go.disabled = false;
    });
  });
  const left = new URLSearchParams(location.search).get("job");
  if (left !== null) follow(left);
}

async function submit(fields: readonly Field[]): Promise<void> {
  const { id } = await ask<{ id: string }>("POST", `/v1/${OPERATION}`, await bodyOf(fields));
  history.replaceState(null, "", `/generate?job=${id}`);
  follow(id);
}

begin().catch((error: unknown) => {
  problem.textContent = sentence(error);
});
