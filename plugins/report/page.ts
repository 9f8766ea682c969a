/** The whole page: words first, then pictures, then numbers. Nothing is fetched, and it opens from a folder. */
import { funnelChart, lossChart } from "./charts.ts";
import * as clips from "./clips.ts";
import type { Description, Measure, Stage } from "./description.ts";
import { type Ancestor, lineageTree } from "./lineage.ts";
import { duration, figure, html, type Markup, memory, type Part, plural, Markup as Raw } from "./markup.ts";
import { SCRIPT, STYLE } from "./style.ts";

interface Section {
  readonly id: string;
  readonly short: string;
  readonly title: string;
  readonly lead: string;
  readonly body: Part;
}

const badge = (isReached: boolean | null): Markup =>
  isReached === null
    ? html`<span class="quiet">–</span>`
    : isReached
      ? html`<span class="badge good">reached</span>`
      : html`<span class="badge bad">not reached</span>`;

const measures = (
  list: readonly Measure[],
): Markup => html`<div class="card scroll"><table><thead><tr><th scope="col">measure</th><th scope="col">value</th><th scope="col">chance</th><th scope="col">required</th><th scope="col">goal</th><th scope="col"></th></tr></thead><tbody>
${list.map(
  ({
    name,
    meaning,
    value,
    unit,
    chance,
    required,
    goal,
    isReached,
    remark,
  }) => html`<tr><th scope="row">${name}<small>${meaning}</small>${remark ? html`<small><b>${remark}</b></small>` : ""}</th>
<td class="value">${value === null ? "–" : figure(value)}${value === null || !unit ? "" : ` ${unit}`}</td><td class="num">${chance === undefined ? "–" : figure(chance)}</td><td class="num">${required ?? "–"}</td><td class="num">${goal ?? "–"}</td><td>${badge(isReached)}</td></tr>`,
)}</tbody></table></div>`;

function cost(stages: readonly Stage[], totalSeconds: number | undefined): Markup {
  const longest = Math.max(...stages.map(({ seconds }) => seconds), 1e-9);
  return html`<div class="card scroll"><table><thead><tr><th scope="col">stage</th><th scope="col">time</th><th scope="col"><span class="quiet">share</span></th><th scope="col">peak memory</th><th scope="col"></th></tr></thead><tbody>
${stages.map(
  ({
    name,
    operation,
    seconds,
    peakBytes,
    isReused,
  }) => html`<tr><th scope="row">${name}<small>${operation}</small></th><td class="num">${duration(seconds)}</td>
<td class="wide"><span class="${isReused ? "bar reused" : "bar"}" style="width:${((seconds / longest) * 100).toFixed(1)}%"></span></td><td class="num">${memory(peakBytes)}</td><td>${isReused ? html`<span class="quiet">reused</span>` : ""}</td></tr>`,
)}
${totalSeconds === undefined ? "" : html`<tr><th scope="row">In all</th><td class="value">${duration(totalSeconds)}</td><td></td><td class="value">${memory(Math.max(0, ...stages.map(({ peakBytes }) => peakBytes)))}</td><td></td></tr>`}</tbody></table></div>`;
}

function funnel({ unit, numIn, rules, dropped }: NonNullable<Description["funnel"]>): Markup {
  return html`<div class="card">${funnelChart({ unit, numIn, rules, dropped })}
<details><summary>${dropped.length > 0 ? `What was dropped, and why (${dropped.length})` : "The rules"}</summary><div class="scroll"><table><tbody>
${dropped.length > 0 ? dropped.map(({ name, rule, why }) => html`<tr><th scope="row">${name}</th><td>${rule}</td><td>${why}</td></tr>`) : rules.map(({ rule, why }) => html`<tr><th scope="row">${rule}</th><td>${why ?? ""}</td></tr>`)}</tbody></table></div></details></div>`;
}

const curves = (list: Description["curves"]): Markup =>
  html`<div class="grid charts">${list.map(
    (curve) =>
      html`<article class="card"><h3>${curve.name}</h3><p class="quiet" style="font-size:.88rem;margin:-.4rem 0 .6rem">${curve.summary} · ${plural(curve.numSteps, "step")}</p>${lossChart(curve)}</article>`,
  )}</div>`;

function sections(description: Description, show: clips.Show, lineage: Ancestor | null): Section[] {
  const { sources, textToVideo, textToImage, imageToVideo, heldOut, best, stages, versions, shortcomings } =
    description;
  const refined = clips.refinedPairs(textToVideo, show);
  const numSamples = textToVideo.reduce((sum, { samples }) => sum + samples.length, 0);
  const list: (Section | false)[] = [
    sources.length > 0 && {
      id: "sources",
      short: "Input",
      title: "What came in",
      lead: `${plural(sources.length, "clip")} with captions. Every one of them was shown to the model.`,
      body: clips.sources(sources, show),
    },
    description.funnel !== undefined && {
      id: "funnel",
      short: "Funnel",
      title: "What was kept",
      lead: "Scores are stored for every clip; the rules below only read them, so a threshold can be changed without computing anything again.",
      body: funnel(description.funnel),
    },
    description.curves.length > 0 && {
      id: "training",
      short: "Training",
      title: "How it learned",
      lead: "The thin line is the loss of every step, the thick one its running average. The loss of a flow model stays well above zero: noise cannot be foreseen.",
      body: curves(description.curves),
    },
    textToVideo.length > 0 && {
      id: "text-to-video",
      short: "Text to video",
      title: "From words to video",
      lead: `${numSamples} clips from ${plural(textToVideo.length, "prompt")}. The outlined clip is the one the prompt was trained on. A mark says which training clip is nearest in EfficientNet-Lite0 features; being nearest to the prompted one is memorisation, which is all that a model of this size and set can show.`,
      body: clips.textToVideo(textToVideo, show),
    },
    textToImage.length > 0 && {
      id: "text-to-image",
      short: "Text to image",
      title: "From words to a picture",
      lead: "The same network, asked for a single frame.",
      body: clips.textToImage(textToImage, show),
    },
    imageToVideo.length > 0 && {
      id: "image-to-video",
      short: "Image to video",
      title: "From a picture to video",
      lead: "The first frame is given (outlined). The figure compares the first generated frame with what the VAE itself can keep of the given picture.",
      body: clips.imageToVideo(imageToVideo, show),
    },
    (refined !== null || heldOut.length > 0) && {
      id: "refined",
      short: "Refined",
      title: "Refined",
      lead: "The refiner doubles the size of a clip. On held-out clips the truth is known: a refined latent should lie nearer to it than the enlarged one.",
      body: html`${refined ?? ""}${heldOut.length > 0 ? html`<h3>Clips that were kept out of training</h3>${clips.heldOut(heldOut, show)}` : ""}`,
    },
    description.measures.length > 0 && {
      id: "measures",
      short: "Measures",
      title: "Measured",
      lead: "Each measure is named for what it counts. Where the usual network has no public weights in a package, the substitute is named.",
      body: measures(description.measures),
    },
    shortcomings.length > 0 && {
      id: "shortcomings",
      short: "Shortcomings",
      title: "What did not work, and what was not run",
      lead: "",
      body: html`<div class="card"><ul class="plain">${shortcomings.map((line) => html`<li>${line}</li>`)}</ul></div>`,
    },
    best !== undefined &&
      lineage !== null && {
        id: "lineage",
        short: "Lineage",
        title: "Where the best clip comes from",
        lead: "Every artefact has one record: what made it, from what, with which options and seed. Read from top to bottom: each box was made from those below it.",
        body: html`<div class="best">${clips.best(best, show)}${lineageTree(lineage, best.names)}</div>`,
      },
    stages.length > 0 && {
      id: "cost",
      short: "Cost",
      title: "What it cost",
      lead: "Time and highest memory of the process that did the work.",
      body: cost(stages, description.totalSeconds),
    },
    Object.keys(versions).length > 0 && {
      id: "versions",
      short: "Versions",
      title: "Versions",
      lead: "",
      body: html`<dl class="card versions">${Object.entries(versions).map(([name, version]) => html`<div><dt>${name}</dt><dd>${version}</dd></div>`)}</dl>`,
    },
  ];
  return list.filter((section): section is Section => section !== false);
}

const digestOf = (text: string): string => new Bun.CryptoHasher("sha256").update(text).digest("base64");

export function page(description: Description, show: clips.Show, lineage: Ancestor | null): string {
  const { title, createdAt, verdict, figures } = description;
  const parts = sections(description, show, lineage);
  // Even if a caption found a way to become markup, the page may load nothing and run nothing but its own script.
  const policy = `default-src 'none'; img-src 'self' file: data:; media-src 'self' file:; style-src 'unsafe-inline'; script-src 'sha256-${digestOf(SCRIPT)}'; base-uri 'none'; form-action 'none'`;
  return html`<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="${policy}"><meta name="referrer" content="no-referrer">
<title>${title}</title><link rel="icon" href="data:,"><style>${new Raw(STYLE)}</style></head><body>
<a class="skip" href="#main">Skip to the report</a>
<nav aria-label="Sections"><div class="wrap">${parts.map(({ id, short }) => html`<a href="#${id}">${short}</a>`)}<button type="button" id="play" hidden>Pause all clips</button></div></nav>
<main id="main" class="wrap"><header><p class="eyebrow">Waver · ${createdAt}</p><h1>${verdict.headline}</h1>
<div class="verdict ${verdict.tone}"><ul>${verdict.sentences.map((sentence) => html`<li>${sentence}</li>`)}</ul></div>
${figures.length > 0 ? html`<dl class="figures">${figures.map(({ label, value, note }) => html`<div><dt>${label}</dt><dd>${value}${note ? html`<small>${note}</small>` : ""}</dd></div>`)}</dl>` : ""}</header>
${parts.map(({ id, title: heading, lead, body }) => html`<section id="${id}" aria-labelledby="${id}-title"><h2 id="${id}-title">${heading}</h2>${lead ? html`<p class="lead">${lead}</p>` : ""}${body}</section>`)}
<footer>Made by <code>waver</code> on this machine; nothing on this page is loaded from a network. Clips are H.264 in MP4 and carry their recipe as metadata.</footer></main>
<script>${new Raw(SCRIPT)}</script></body></html>
`.text;
}
