/** A page that needs nothing beside it: PSNR and SSIM over the frames of two clips, as SVG. */
import type { Compared } from "./compare.ts";

const WIDTH = 900;
const HEIGHT = 220;
const BOX = { left: 60, right: WIDTH - 16, top: 16, bottom: HEIGHT - 36 };

const STYLE = `:root{color-scheme:light dark;--ink:light-dark(#1c1b1a,#ece9e4);--quiet:light-dark(#6d6862,#9d978f);--line:light-dark(#e2ded7,#33302d);--curve:light-dark(#0b6e78,#5cc4cf);--worst:light-dark(#a8321f,#ff8f7a)}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:var(--ink);background:light-dark(#fbfaf8,#191817)}
h1{font-size:1.2rem;overflow-wrap:anywhere}h2{font-size:1rem;margin:2rem 0 .3rem}p{color:var(--quiet);margin:0}
svg{width:100%;height:auto;display:block}line{stroke:var(--line)}text{fill:var(--quiet);font-size:12px}
path{fill:none;stroke:var(--curve);stroke-width:1.8}circle{fill:var(--curve)}circle.worst{fill:var(--worst)}text.worst{fill:var(--worst)}`;

const ENTITIES: Readonly<Record<string, string>> = {
  "&": "&amp;",
  "<": "&lt;",
  ">": "&gt;",
  '"': "&quot;",
  "'": "&#39;",
};
const escaped = (text: string): string => text.replace(/[&<>"']/g, (c) => ENTITIES[c] ?? c);
const n = (value: number): string => value.toFixed(1);

/** Round numbers that lie in [low, high], about `count` of them. */
export function roundNumbers(low: number, high: number, count: number): number[] {
  const rough = (high - low) / count;
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power;
  const found: number[] = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++)
    found.push(Number((k * step).toPrecision(12)));
  return found;
}

export function chartPage(first: string, second: string, compared: Omit<Compared, "chart">): string {
  const { width, height, numFrames, unmatched, frames, worst } = compared;
  const title = `${first} and ${second}`;
  const count = (value: number): string => `${value} ${value === 1 ? "frame" : "frames"}`;
  const facts = [
    `${count(numFrames)} of ${width} x ${height}`,
    ...(unmatched > 0 ? [`${count(unmatched)} without a counterpart`] : []),
  ];
  const similarity = frames.every((frame) => frame.ssim !== null)
    ? section(
        "SSIM",
        `mean ${compared.ssim?.toFixed(4)}`,
        frames.map((frame) => frame.ssim as number),
        1,
      )
    : "";
  return `<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>${escaped(title)}</title><style>${STYLE}</style>
<h1>${escaped(title)}</h1><p>${facts.join(", ")}</p>
${section(
  "PSNR",
  `mean ${compared.psnr.toFixed(2)} dB, least ${worst.psnr.toFixed(2)} dB at frame ${worst.frame}; 100 means equal`,
  frames.map((frame) => frame.psnr),
  100,
)}
${similarity}</html>
`;
}

/** `best`: the value of equal frames, never beyond the axis. */
function section(name: string, words: string, values: readonly number[], best: number): string {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const margin = Math.max((most - least) * 0.08, best * 0.002);
  const [low, high] = [least - margin, Math.min(best, most + margin)];
  const x = (i: number): number => BOX.left + (i / Math.max(1, values.length - 1)) * (BOX.right - BOX.left);
  const y = (value: number): number => BOX.bottom - ((value - low) / (high - low || 1)) * (BOX.bottom - BOX.top);
  const grid = roundNumbers(low, high, 4).map(
    (tick) =>
      `<line x1="${BOX.left}" x2="${BOX.right}" y1="${n(y(tick))}" y2="${n(y(tick))}"/><text x="${BOX.left - 8}" y="${n(y(tick) + 4)}" text-anchor="end">${tick}</text>`,
  );
  const ticks = roundNumbers(0, values.length - 1, 8)
    .filter(Number.isInteger)
    .map((i) => `<text x="${n(x(i))}" y="${BOX.bottom + 20}" text-anchor="middle">${i}</text>`);
  const path = values.map((value, i) => `${i === 0 ? "M" : "L"}${n(x(i))} ${n(y(value))}`).join("");
  const worst = values.indexOf(least);
  const label = `${name} over ${values.length} frames, ${words}`;
  // A few frames are points as well: a line of one would not be seen.
  const dots =
    values.length <= 60 ? values.map((value, i) => `<circle cx="${n(x(i))}" cy="${n(y(value))}" r="2.5"/>`) : [];
  return `<h2>${name}</h2><p>${escaped(words)}</p><svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escaped(label)}"><title>${escaped(label)}</title>
${[...grid, ...ticks].join("")}<text x="${BOX.right}" y="${HEIGHT - 2}" text-anchor="end">frame</text>
<path d="${path}"/>${dots.join("")}<circle class="worst" cx="${n(x(worst))}" cy="${n(y(least))}" r="4"/></svg>`;
}
