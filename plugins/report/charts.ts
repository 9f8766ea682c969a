/** Pictures drawn as inline SVG: loss curves and the funnel. Colours come from the page's style sheet. */
import type { Curve, Funnel } from "./description.ts";
import { figure, html, type Markup, plural } from "./markup.ts";

/** Round numbers that cover [low, high], about `count` of them. */
export function ticks(low: number, high: number, count: number): number[] {
  const span = high - low;
  if (!(span > 0)) return [low];
  const rough = span / count;
  const magnitude = 10 ** Math.floor(Math.log10(rough));
  const step = ([1, 2, 5, 10].find((factor) => factor * magnitude >= rough) ?? 10) * magnitude;
  const first = Math.ceil(low / step) * step;
  return Array.from({ length: Math.floor((high - first) / step + 1e-9) + 1 }, (_, i) =>
    Number((first + i * step).toPrecision(12)),
  );
}

/** Average over a window around each value, a fortieth of the curve to either side, cut off at the ends. */
export function smoothed(values: readonly number[]): number[] {
  const reach = Math.max(1, Math.round(values.length / 40));
  const sums = [0];
  for (const value of values) sums.push((sums.at(-1) as number) + value);
  return values.map((_, i) => {
    const [from, to] = [Math.max(0, i - reach), Math.min(values.length, i + reach + 1)];
    return ((sums[to] as number) - (sums[from] as number)) / (to - from);
  });
}

const quantile = (sorted: readonly number[], q: number): number =>
  sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] as number;
const n = (value: number): string => value.toFixed(1);

const WIDTH = 400;
const HEIGHT = 200;
const BOX = { left: 52, right: WIDTH - 14, top: 14, bottom: HEIGHT - 34 };

/** One training stage's loss: every step thin, the average thick. */
export function lossChart(curve: Curve): Markup {
  const points = curve.steps
    .map((step, i) => ({ step, loss: curve.losses[i] as number }))
    .filter(({ loss }) => Number.isFinite(loss));
  if (points.length < 2) return html`<p class="quiet">No loss was recorded for this stage.</p>`;
  const line = smoothed(points.map(({ loss }) => loss));
  const sorted = points.map(({ loss }) => loss).toSorted((a, b) => a - b);
  // One early spike must not flatten the rest; what is above leaves the picture at its top edge.
  const [low, high] = [
    Math.min(0, sorted[0] as number),
    Math.max(quantile(sorted, 0.985), ...line.slice(Math.floor(line.length / 10))) * 1.05,
  ];
  const [first, last] = [(points[0] as { step: number }).step, (points.at(-1) as { step: number }).step];
  const x = (step: number): number => BOX.left + ((step - first) / Math.max(1, last - first)) * (BOX.right - BOX.left);
  const y = (loss: number): number =>
    BOX.bottom - ((Math.min(loss, high) - low) / (high - low || 1)) * (BOX.bottom - BOX.top);
  const path = (values: readonly number[]): string =>
    values
      .map((value, i) => `${i === 0 ? "M" : "L"}${n(x((points[i] as { step: number }).step))} ${n(y(value))}`)
      .join("");
  const words = `Loss of ${curve.name}: from ${figure(line[0] as number)} to ${figure(line.at(-1) as number)} in ${plural(curve.numSteps, "step")}.`;
  return html`<svg class="chart" viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${words}"><title>${words}</title>
${ticks(low, high, 4).map((tick) => html`<g class="grid"><line x1="${BOX.left}" x2="${BOX.right}" y1="${n(y(tick))}" y2="${n(y(tick))}"/><text x="${BOX.left - 8}" y="${n(y(tick) + 4)}" text-anchor="end">${figure(tick)}</text></g>`)}
${ticks(first, last, 5).map((tick) => html`<text class="tick" x="${n(x(tick))}" y="${BOX.bottom + 18}" text-anchor="middle">${figure(tick)}</text>`)}
<text class="tick" x="${BOX.right}" y="${HEIGHT - 2}" text-anchor="end">step</text>
<path class="raw" d="${path(points.map(({ loss }) => loss))}"/><path class="smooth" d="${path(line)}"/>
<circle class="end" cx="${n(x(last))}" cy="${n(y(line.at(-1) as number))}" r="3.5"/></svg>`;
}

const ROW = 46;
const FUNNEL = { width: 760, left: 210, right: 590 };

/** Every rule as a layer whose width is what it kept; what it dropped stands beside it. */
export function funnelChart({ unit, numIn, rules }: Funnel): Markup {
  const height = 40 + ROW * (rules.length + 1);
  const middle = (FUNNEL.left + FUNNEL.right) / 2;
  const half = (count: number): number => (numIn === 0 ? 0 : ((count / numIn) * (FUNNEL.right - FUNNEL.left)) / 2);
  const layers = [{ rule: `${unit} found`, dropped: 0, kept: numIn }, ...rules];
  const words = `Of ${numIn} ${unit}, ${layers.at(-1)?.kept ?? 0} were kept. ${rules.map(({ rule, dropped }) => `${rule} dropped ${dropped}.`).join(" ")}`;
  return html`<svg class="chart funnel" viewBox="0 0 ${FUNNEL.width} ${height}" role="img" aria-label="${words}"><title>${words}</title>
${layers.map(({ rule, dropped, kept }, i) => {
  const top = 12 + i * ROW;
  const before = i === 0 ? kept : (layers[i - 1] as { kept: number }).kept;
  const [wide, narrow] = [half(before), half(kept)];
  return html`<g class="${dropped > 0 ? "layer drops" : "layer"}">
<path class="${i === 0 ? "kept first" : "kept"}" d="M${n(middle - wide)} ${top}L${n(middle + wide)} ${top}L${n(middle + narrow)} ${top + 14}V${top + ROW - 6}H${n(middle - narrow)}V${top + 14}z"/>
<text class="count" x="${middle}" y="${top + 31}" text-anchor="middle">${kept}</text>
<text class="rule" x="${FUNNEL.left - 16}" y="${top + 29}" text-anchor="end">${rule}</text>
<text class="dropped" x="${FUNNEL.right + 16}" y="${top + 29}">${i === 0 ? "" : dropped === 0 ? "nothing dropped" : `${dropped} dropped`}</text></g>`;
})}</svg>`;
}
