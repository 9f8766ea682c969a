/** The sections that show pictures: what came in, what was made, what was refined. */
import type { Description, Sample, ShownClip } from "./description.ts";
import { duration, figure, html, link, type Markup, type Part } from "./markup.ts";
import type { Shown, Span } from "./media.ts";

export type Show = (clip: Span) => Shown;

/** One clip or image with words for those who cannot see it. */
function picture(show: Show, clip: Span, words: string): Markup {
  const { kind, src, poster, width, height } = show(clip);
  const aspect = `--aspect:${width}/${height}`;
  if (kind === "image")
    return html`<span class="frame" style="display:block"><img src="${link(src)}" alt="${words}" style="${aspect}" width="${width}" height="${height}"></span>`;
  return html`<span class="frame" style="display:block"><video src="${link(src)}" ${poster ? html`poster="${link(poster)}"` : ""} style="${aspect}" width="${width}" height="${height}" controls muted loop playsinline preload="metadata" aria-label="${words}"></video></span>`;
}

const tile = (show: Show, clip: Span, words: string, caption: Part, given = false): Markup =>
  html`<figure class="${given ? "given" : "made"}">${picture(show, clip, words)}<figcaption>${caption}</figcaption></figure>`;

export const sources = (clips: readonly ShownClip[], show: Show): Markup =>
  html`<div class="grid clips">${clips.map((clip) =>
    tile(
      show,
      clip,
      `Source clip: ${clip.caption || "no caption"}`,
      html`<b>${clip.caption || "no caption"}</b>${duration(show(clip).seconds)}${clip.note ? ` · ${clip.note}` : ""}`,
    ),
  )}</div>`;

/** What the nearest training clip says about a sample; the clip itself is shown when it is not the prompted one. */
function verdict({ nearest, note }: Sample, show: Show): Markup {
  if (!nearest) return html`${note ?? ""}`;
  if (nearest.isPrompted) return html`<span class="mark yes">✓ this clip</span> ${figure(nearest.similarity)}`;
  const words = html`<span class="clamp" title="${nearest.caption}">${nearest.caption}</span>`;
  return html`<span class="mark no">✗ another</span> ${figure(nearest.similarity)}<span class="nearest">${nearest.clip ? picture(show, nearest.clip, `Nearest training clip: ${nearest.caption}`) : ""}${words}</span>`;
}

export const textToVideo = (sheets: Description["textToVideo"], show: Show): Markup =>
  html`<div class="grid sheets">${sheets.map(
    ({ prompt, training, samples }) => html`<article class="card"><h3>“${prompt}”</h3><div class="strip">
${training ? tile(show, training, `Training clip: ${prompt}`, "training clip", true) : ""}
${samples.map((sample) => tile(show, sample, `Generated, seed ${sample.seed}: ${prompt}`, html`seed ${sample.seed}<br>${verdict(sample, show)}`))}</div></article>`,
  )}</div>`;

export const textToImage = (sheets: Description["textToImage"], show: Show): Markup =>
  html`<div class="grid clips">${sheets.flatMap(({ prompt, samples }) =>
    samples.map((sample) =>
      tile(
        show,
        sample,
        `Generated image, seed ${sample.seed}: ${prompt}`,
        html`<b>${prompt}</b>seed ${sample.seed}${sample.nearest ? html`<br>${verdict(sample, show)}` : ""}`,
      ),
    ),
  )}</div>`;

export const imageToVideo = (items: Description["imageToVideo"], show: Show): Markup =>
  html`<div class="grid pairs">${items.map(
    ({
      prompt,
      image,
      reconstruction,
      file,
      seed,
      firstFramePsnr,
    }) => html`<article class="card"><h3>“${prompt}”</h3><div class="${reconstruction ? "strip" : "strip two"}">
${tile(show, { file: image }, `Given first frame: ${prompt}`, "given image", true)}
${reconstruction ? tile(show, { file: reconstruction }, `The given frame through the VAE: ${prompt}`, "through the VAE") : ""}
${tile(show, { file }, `Generated from the image, seed ${seed}: ${prompt}`, html`seed ${seed}${firstFramePsnr === undefined ? "" : html`<br>first frame ${firstFramePsnr.toFixed(1)} dB`}`)}</div></article>`,
  )}</div>`;

/** Generated clips before and after the refiner, for every sample that was refined. */
export function refinedPairs(sheets: Description["textToVideo"], show: Show): Markup | null {
  const pairs = sheets.flatMap(({ prompt, samples }) =>
    samples.flatMap((sample) => (sample.refined === undefined ? [] : [{ prompt, sample, refined: sample.refined }])),
  );
  if (pairs.length === 0) return null;
  return html`<div class="grid pairs">${pairs.map(
    ({ prompt, sample, refined }) => html`<article class="card"><h3>“${prompt}”</h3><div class="strip two">
${tile(show, sample, `Before refining: ${prompt}`, html`as generated, ${sizeOf(show(sample))}`)}
${tile(show, { file: refined }, `Refined: ${prompt}`, html`refined, ${sizeOf(show({ file: refined }))}`)}</div></article>`,
  )}</div>`;
}

export const heldOut = (items: Description["heldOut"], show: Show): Markup =>
  html`<div class="grid pairs">${items.map(({ caption, low, refined, high, distanceLow, distanceRefined }) => {
    const isNearer = distanceLow !== undefined && distanceRefined !== undefined ? distanceRefined < distanceLow : null;
    return html`<article class="card"><h3>“${caption}”</h3><div class="strip">
${tile(show, { file: low }, `Low resolution: ${caption}`, html`low, enlarged${distanceLow === undefined ? "" : html`<br>distance ${figure(distanceLow)}`}`, true)}
${tile(show, { file: refined }, `Refined: ${caption}`, html`refined${distanceRefined === undefined ? "" : html`<br><span class="mark ${isNearer ? "yes" : "no"}">${isNearer ? "✓ nearer:" : "✗ further:"} ${figure(distanceRefined)}</span>`}`)}
${tile(show, { file: high }, `True high resolution: ${caption}`, "the truth", true)}</div></article>`;
  })}</div>`;

export const best = ({ file, caption }: { file: string; caption: string }, show: Show): Markup =>
  tile(show, { file }, `The best clip: ${caption}`, caption);

const sizeOf = ({ width, height }: Shown): string => `${width} × ${height}`;

/** Every clip that the sections above show, to be taken into the folder first. */
export function* shownIn(description: Description): Iterable<Span> {
  yield* description.sources;
  for (const { training, samples } of description.textToVideo) {
    if (training) yield training;
    yield* samplesIn(samples);
  }
  for (const { samples } of description.textToImage) yield* samplesIn(samples);
  for (const { image, reconstruction, file } of description.imageToVideo)
    for (const path of [image, reconstruction, file]) if (path !== undefined) yield { file: path };
  for (const { low, refined, high } of description.heldOut) for (const file of [low, refined, high]) yield { file };
  if (description.best) yield { file: description.best.file };
}

function* samplesIn(samples: readonly Sample[]): Iterable<Span> {
  for (const { file, refined, nearest } of samples) {
    yield { file };
    if (refined !== undefined) yield { file: refined };
    if (nearest?.clip && !nearest.isPrompted) yield nearest.clip;
  }
}
