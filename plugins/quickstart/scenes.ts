/**
 * Seeded moving scenes with exact captions, drawn as SVG and rendered by sharp: the part of the quick start's input that
 * no licence touches. A scene is a function of time; the seed moves, sizes and recolours what is in it, so that other
 * seeds give held-out clips of the same kind.
 */
import { mulberry32, type Random } from "./random.ts";

/** Side of a rendered frame in pixels; the set is cut down from it. */
export const SCENE_SIZE = 256;

export interface Scene {
  readonly name: string;
  readonly caption: string;
  /** SVG of the frame at time t in [0, 1]. */
  draw(random: Random): (t: number) => string;
}

const svg = (body: string): string =>
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 256 256" width="${SCENE_SIZE}" height="${SCENE_SIZE}">${body}</svg>`;
const gradient = (id: string, top: string, bottom: string): string =>
  `<defs><linearGradient id="${id}" x1="0" y1="0" x2="0" y2="1"><stop offset="0" stop-color="${top}"/><stop offset="1" stop-color="${bottom}"/></linearGradient></defs>`;
const sky = (top: string, bottom: string): string =>
  `${gradient("sky", top, bottom)}<rect width="256" height="256" fill="url(#sky)"/>`;
const hsl = (h: number, s: number, l: number): string => `hsl(${h.toFixed(0)},${s}%,${l}%)`;
const n = (x: number): string => x.toFixed(2);
/** `count` values drawn once, so that every frame of a clip sees the same ones. */
const draws = <T>(count: number, make: (i: number) => T): readonly T[] =>
  Array.from({ length: count }, (_, i) => make(i));

const cloud = (x: number, y: number, s: number, fill = "#fff"): string =>
  `<g transform="translate(${n(x)} ${n(y)}) scale(${n(s)})" fill="${fill}"><ellipse cx="0" cy="0" rx="26" ry="12"/><ellipse cx="-12" cy="-7" rx="13" ry="11"/><ellipse cx="9" cy="-10" rx="15" ry="13"/></g>`;

export const SCENES: readonly Scene[] = [
  {
    name: "ball",
    caption: "a red ball bounces across green grass under a blue sky",
    draw(random) {
      const horizon = 150 + random.range(-10, 10);
      const radius = 24 + random.range(-4, 4);
      const from = random.range(20, 60);
      const blades = draws(
        60,
        () => [random.range(0, 256), random.range(horizon + 6, 256), random.range(4, 10)] as const,
      );
      return (t) => {
        const x = from + t * 160;
        const y = 205 - Math.abs(Math.sin(t * Math.PI * 3)) * 110;
        return svg(
          `${sky("#3d86e8", "#bfe0ff")}<rect y="${n(horizon)}" width="256" height="120" fill="#3a9a3a"/>${blades.map(([bx, by, h]) => `<path d="M${n(bx)} ${n(by)}l3 ${n(-h)}l3 ${n(h)}z" fill="#2c7a2c"/>`).join("")}<ellipse cx="${n(x)}" cy="228" rx="${n(radius)}" ry="6" fill="#1d5c1d" opacity="0.6"/><circle cx="${n(x)}" cy="${n(y)}" r="${n(radius)}" fill="#d8201c"/><circle cx="${n(x - 8)}" cy="${n(y - 9)}" r="${n(radius * 0.3)}" fill="#ff9d90"/>`,
        );
      };
    },
  },
  {
    name: "sailboat",
    caption: "a white sailboat drifts over a dark sea at orange sunset",
    draw(random) {
      const sun = random.range(70, 190);
      const size = random.range(0.9, 1.2);
      const waves = draws(26, () => [random.range(0, 256), random.range(160, 250), random.range(14, 34)] as const);
      return (t) => {
        const x = 60 + t * 120;
        const tilt = Math.sin(t * Math.PI * 4) * 5;
        return svg(
          `${sky("#f3641d", "#ffd37a")}<circle cx="${n(sun)}" cy="128" r="34" fill="#fff2a8"/><rect y="150" width="256" height="106" fill="#123a5e"/>${waves.map(([wx, wy, w], i) => `<rect x="${n(((wx + t * (i % 2 ? 30 : -30) + 256) % 256) - 10)}" y="${n(wy)}" width="${n(w)}" height="3" rx="1.5" fill="#e88a3c" opacity="0.55"/>`).join("")}<g transform="translate(${n(x)} 172) rotate(${n(tilt)}) scale(${n(size)})"><path d="M-34 0h68l-12 18h-44z" fill="#6b3a1c"/><path d="M0 -6V-84l40 74z" fill="#fff"/><path d="M-4 -6V-70l-28 62z" fill="#f1eee4"/><rect x="-2" y="-86" width="3" height="88" fill="#402010"/></g>`,
        );
      };
    },
  },
  {
    name: "rocket",
    caption: "a rocket with a bright flame flies up through a starry night sky",
    draw(random) {
      const stars = draws(70, () => [random.range(0, 256), random.range(0, 256), random.range(0.6, 2.2)] as const);
      const x = random.range(105, 150);
      return (t) => {
        const y = 235 - t * 190;
        const flame = 40 + 14 * Math.sin(t * 60);
        return svg(
          `${sky("#05061a", "#151a4a")}${stars.map(([sx, sy, r]) => `<circle cx="${n(sx)}" cy="${n((sy + t * 60) % 256)}" r="${n(r)}" fill="#fff"/>`).join("")}<g transform="translate(${n(x)} ${n(y)})"><path d="M-11 34L0 ${n(34 + flame)}L11 34z" fill="#ffb01f"/><path d="M-6 34L0 ${n(34 + flame * 0.6)}L6 34z" fill="#fff6c8"/><path d="M0 -42C20 -20 20 14 14 34H-14C-20 14 -20 -20 0 -42z" fill="#e9ecf2"/><circle cx="0" cy="-8" r="8" fill="#3b7fd1"/><path d="M-14 16l-15 22l16 -6zM14 16l15 22l-16 -6z" fill="#d23b2f"/></g>`,
        );
      };
    },
  },
  {
    name: "windmill",
    caption: "a stone windmill turns its four sails above a yellow wheat field",
    draw(random) {
      const start = random.range(0, 90);
      const x = random.range(115, 140);
      const drift = random.range(0, 60);
      const wheat = draws(80, () => [random.range(0, 256), random.range(190, 256)] as const);
      return (t) => {
        const angle = start + t * 180;
        const sail = `<g><rect x="-3" y="-92" width="6" height="92" fill="#4a2c14"/><rect x="3" y="-90" width="18" height="66" fill="#f7f0df" stroke="#8a6a40"/></g>`;
        return svg(
          `${sky("#7fc4f5", "#e7f6ff")}${cloud(40 + drift + t * 30, 46, 1)}${cloud(190 + t * 20, 30, 0.7)}<rect y="184" width="256" height="72" fill="#dcae2b"/>${wheat.map(([wx, wy]) => `<rect x="${n(wx)}" y="${n(wy)}" width="2" height="9" fill="#b07f12" transform="rotate(${n(8 * Math.sin(t * 9 + wx))} ${n(wx)} ${n(wy)})"/>`).join("")}<path d="M${n(x - 34)} 204L${n(x - 20)} 104H${n(x + 20)}L${n(x + 34)} 204z" fill="#9a948c"/><path d="M${n(x - 24)} 104L${n(x)} 78L${n(x + 24)} 104z" fill="#7c2f22"/><rect x="${n(x - 9)}" y="172" width="18" height="32" fill="#4a2c14"/><g transform="translate(${n(x)} 108) rotate(${n(angle)})">${[0, 90, 180, 270].map((a) => `<g transform="rotate(${a})">${sail}</g>`).join("")}<circle r="7" fill="#2f1c0c"/></g>`,
        );
      };
    },
  },
  {
    name: "fish",
    caption: "an orange fish swims past green seaweed in deep blue water with rising bubbles",
    draw(random) {
      const y = random.range(95, 140);
      const bubbles = draws(14, () => [random.range(10, 246), random.range(0, 256), random.range(3, 8)] as const);
      const weeds = draws(7, (i) => [18 + i * 36 + random.range(-9, 9), random.range(60, 120)] as const);
      return (t) => {
        const x = -10 + t * 250;
        const wag = Math.sin(t * 40) * 14;
        return svg(
          `${sky("#1f78c8", "#062a5c")}<rect y="232" width="256" height="24" fill="#c9b27a"/>${weeds.map(([wx, h], i) => `<path d="M${n(wx)} 240C${n(wx + 18 * Math.sin(t * 7 + i))} ${n(240 - h / 2)} ${n(wx - 18 * Math.sin(t * 7 + i))} ${n(240 - h * 0.75)} ${n(wx + 10 * Math.sin(t * 7 + i))} ${n(240 - h)}" stroke="#1d9b4b" stroke-width="9" fill="none" stroke-linecap="round"/>`).join("")}${bubbles.map(([bx, by, r]) => `<circle cx="${n(bx)}" cy="${n((by - t * 150 + 512) % 256)}" r="${n(r)}" fill="none" stroke="#cfeeff" stroke-width="2"/>`).join("")}<g transform="translate(${n(x)} ${n(y + 10 * Math.sin(t * 8))})"><path d="M-34 0L-66 ${n(-22 + wag)}V${n(22 + wag)}z" fill="#e56a10"/><ellipse rx="42" ry="25" fill="#ff8c1a"/><path d="M2 -24C8 -8 8 8 2 24H14C20 8 20 -8 14 -24z" fill="#fff"/><circle cx="25" cy="-6" r="5" fill="#fff"/><circle cx="26" cy="-6" r="2.6" fill="#111"/></g>`,
        );
      };
    },
  },
  {
    name: "snowman",
    caption: "snow falls on a snowman with a black hat at night",
    draw(random) {
      const flakes = draws(70, () => [random.range(0, 256), random.range(0, 256), random.range(1.5, 4)] as const);
      const x = random.range(110, 146);
      return (t) =>
        svg(
          `${sky("#101a38", "#3a4a7a")}<path d="M0 200Q70 180 140 196T256 190V256H0z" fill="#e8eef8"/><g transform="translate(${n(x)} 0)"><circle cy="188" r="42" fill="#fff"/><circle cy="126" r="31" fill="#f6f9ff"/><circle cy="80" r="23" fill="#fff"/><rect x="-26" y="56" width="52" height="6" fill="#111"/><rect x="-17" y="26" width="34" height="32" fill="#111"/><circle cx="-8" cy="75" r="3" fill="#111"/><circle cx="8" cy="75" r="3" fill="#111"/><path d="M0 80l26 5l-26 5z" fill="#f07a1a"/><rect x="-24" y="97" width="48" height="9" rx="4" fill="#c5202f"/></g>${flakes.map(([fx, fy, r], i) => `<circle cx="${n((fx + 10 * Math.sin(t * 6 + i) + 256) % 256)}" cy="${n((fy + t * 256) % 256)}" r="${n(r)}" fill="#fff"/>`).join("")}`,
        );
    },
  },
  {
    name: "campfire",
    caption: "a campfire flickers between pine trees in a dark forest",
    draw(random) {
      const trees = draws(9, (i) => [i * 32 + random.range(-10, 10), random.range(90, 150)] as const);
      const sparks = draws(16, () => [random.range(-26, 26), random.range(0, 1)] as const);
      const phase = random.range(0, 6);
      return (t) => {
        const f = (k: number): number => Math.sin(t * 38 * k + phase + k);
        return svg(
          `${sky("#06080c", "#132016")}${trees.map(([tx, h]) => `<path d="M${n(tx)} 205L${n(tx + 24)} ${n(205 - h)}L${n(tx + 48)} 205z" fill="#0e2a18"/>`).join("")}<rect y="200" width="256" height="56" fill="#24170d"/><ellipse cx="128" cy="212" rx="92" ry="24" fill="#7a3a0e" opacity="0.75"/><path d="M100 214C${n(92 + 8 * f(1))} 170 ${n(122 + 12 * f(0.7))} ${n(140 + 12 * f(1.3))} ${n(128 + 10 * f(0.9))} ${n(104 + 16 * f(1.1))}C${n(138 + 12 * f(1.2))} 150 ${n(166 + 8 * f(0.8))} 170 156 214z" fill="#ff6a10"/><path d="M110 214C${n(106 + 6 * f(1.4))} 182 ${n(126 + 6 * f(1))} 168 ${n(129 + 8 * f(0.6))} ${n(142 + 10 * f(1.2))}C${n(136 + 6 * f(1.5))} 170 152 186 146 214z" fill="#ffd23c"/><g transform="translate(128 216)"><rect x="-44" y="-7" width="88" height="13" rx="6" fill="#5b3416" transform="rotate(11)"/><rect x="-44" y="-7" width="88" height="13" rx="6" fill="#6f4220" transform="rotate(-11)"/></g>${sparks.map(([sx, p]) => `<circle cx="${n(128 + sx + 8 * f(0.5 + p))}" cy="${n(190 - ((t * 1.6 + p) % 1) * 150)}" r="2.4" fill="#ffb347"/>`).join("")}`,
        );
      };
    },
  },
  {
    name: "car",
    caption: "a yellow car drives along a road in front of grey city towers",
    draw(random) {
      const towers = draws(
        9,
        (i) => [i * 36 - 10, random.range(70, 150), random.range(26, 34), random.range(0, 1)] as const,
      );
      const from = random.range(-20, 10);
      return (t) => {
        const x = from + t * 210;
        const wheel = t * 1500;
        const w = (cx: number): string =>
          `<g transform="translate(${cx} 22) rotate(${n(wheel)})"><circle r="13" fill="#1a1a1a"/><circle r="6" fill="#aaa"/><rect x="-1.5" y="-12" width="3" height="24" fill="#666"/></g>`;
        return svg(
          `${sky("#aebfce", "#e6edf2")}${towers.map(([tx, h, w2, tone]) => `<rect x="${n(tx)}" y="${n(186 - h)}" width="${n(w2)}" height="${n(h)}" fill="${hsl(215, 10, 38 + tone * 18)}"/>${draws(Math.floor(h / 20), (k) => `<rect x="${n(tx + 5)}" y="${n(192 - h + k * 20)}" width="${n(w2 - 10)}" height="6" fill="#dfe6ea" opacity="0.7"/>`).join("")}`).join("")}<rect y="186" width="256" height="70" fill="#3c3f44"/>${draws(6, (i) => `<rect x="${n(((i * 52 - t * 104 + 520) % 312) - 40)}" y="226" width="28" height="5" fill="#f2e9c0"/>`).join("")}<g transform="translate(${n(x)} 186)"><path d="M-52 20V0L-32 -4L-18 -26H20L36 -4L54 0V20z" fill="#f4c20d"/><path d="M-14 -21H0V-4H-26zM6 -21H17L28 -4H6z" fill="#9fd3f0"/>${w(-30)}${w(32)}</g>`,
        );
      };
    },
  },
  {
    name: "butterfly",
    caption: "a purple butterfly flaps over pink flowers in a green meadow",
    draw(random) {
      const flowers = draws(12, () => [random.range(8, 248), random.range(170, 240), random.range(8, 14)] as const);
      const phase = random.range(0, 6);
      return (t) => {
        const x = 60 + t * 130 + 12 * Math.sin(t * 9 + phase);
        const y = 95 + 22 * Math.sin(t * 12 + phase);
        const flap = 0.35 + 0.65 * Math.abs(Math.cos(t * 22));
        const wing = `<path d="M0 0C14 -52 62 -52 56 -14C54 4 22 8 0 2z" fill="#7a35c9"/><path d="M0 4C24 8 48 16 38 38C28 52 6 34 0 8z" fill="#a763ea"/><circle cx="36" cy="-22" r="7" fill="#ffd9ff"/>`;
        return svg(
          `${sky("#bfe9c2", "#63b35f")}${flowers.map(([fx, fy, r]) => `<rect x="${n(fx - 1.5)}" y="${n(fy)}" width="3" height="40" fill="#2a7a35"/>${[0, 72, 144, 216, 288].map((a) => `<ellipse cx="${n(fx + r * Math.cos((a * Math.PI) / 180))}" cy="${n(fy + r * Math.sin((a * Math.PI) / 180))}" rx="${n(r * 0.7)}" ry="${n(r * 0.7)}" fill="#ff6fae"/>`).join("")}<circle cx="${n(fx)}" cy="${n(fy)}" r="${n(r * 0.6)}" fill="#ffe14d"/>`).join("")}<g transform="translate(${n(x)} ${n(y)}) rotate(${n(8 * Math.sin(t * 10))})"><g transform="scale(${n(flap)} 1)">${wing}</g><g transform="scale(${n(-flap)} 1)">${wing}</g><rect x="-3" y="-18" width="6" height="42" rx="3" fill="#2a1236"/></g>`,
        );
      };
    },
  },
  {
    name: "balloon",
    caption: "a striped hot air balloon rises past white clouds in a bright sky",
    draw(random) {
      const x = random.range(105, 150);
      const clouds = draws(
        5,
        (i) => [random.range(10, 246), i * 56 + random.range(0, 30), random.range(0.7, 1.4)] as const,
      );
      return (t) => {
        const y = 150 - t * 70;
        return svg(
          `${sky("#57b6f2", "#c6ecff")}${clouds.map(([cx, cy, s]) => cloud(cx, ((cy + t * 120) % 290) - 10, s)).join("")}<g transform="translate(${n(x + 8 * Math.sin(t * 5))} ${n(y)})"><path d="M-26 46L-10 84H10L26 46" fill="none" stroke="#5a3a1e" stroke-width="2"/><ellipse rx="58" ry="62" fill="#e33b2e"/><ellipse rx="36" ry="62" fill="#ffe24a"/><ellipse rx="15" ry="62" fill="#2f5fd0"/><rect x="-12" y="82" width="24" height="18" rx="3" fill="#8a5a2b"/></g>`,
        );
      };
    },
  },
  {
    name: "rain",
    caption: "heavy rain falls past a single glowing street lamp on a dark wet street",
    draw(random) {
      const drops = draws(80, () => [random.range(0, 270), random.range(0, 256), random.range(12, 24)] as const);
      const x = random.range(80, 120);
      return (t) =>
        svg(
          `${sky("#1a2027", "#39444f")}<rect y="205" width="256" height="51" fill="#20262c"/><ellipse cx="${n(x + 40)}" cy="226" rx="70" ry="12" fill="#c79a3c" opacity="0.45"/><path d="M${n(x + 40)} 66L${n(x - 20)} 216H${n(x + 100)}z" fill="#ffdf80" opacity="${n(0.22 + 0.03 * Math.sin(t * 30))}"/><rect x="${n(x)}" y="60" width="7" height="160" fill="#0c0f12"/><rect x="${n(x)}" y="54" width="48" height="7" fill="#0c0f12"/><ellipse cx="${n(x + 40)}" cy="64" rx="15" ry="10" fill="#ffe9a0"/>${drops
            .map(([dx, dy, l]) => {
              const py = (dy + t * 900) % 280;
              return `<line x1="${n(dx - py * 0.08)}" y1="${n(py - 20)}" x2="${n(dx - py * 0.08 - l * 0.1)}" y2="${n(py - 20 + l)}" stroke="#b7cbe0" stroke-width="1.6" opacity="0.8"/>`;
            })
            .join("")}`,
        );
    },
  },
  {
    name: "clock",
    caption: "the black hands of a round white clock turn on a brown brick wall",
    draw(random) {
      const start = random.range(0, 360);
      const tone = random.range(8, 22);
      const bricks = draws(16, (row) =>
        draws(
          6,
          (col) =>
            `<rect x="${n(col * 48 - (row % 2 ? 24 : 0) + 1)}" y="${n(row * 16 + 1)}" width="46" height="14" fill="${hsl(tone, 45, 30 + ((row * 7 + col * 5) % 5) * 2)}"/>`,
        ).join(""),
      ).join("");
      return (t) =>
        svg(
          `<rect width="256" height="256" fill="#3a2218"/>${bricks}<circle cx="128" cy="128" r="88" fill="#2a2a2a"/><circle cx="128" cy="128" r="79" fill="#faf8f0"/>${draws(12, (i) => `<rect x="125" y="54" width="6" height="14" fill="#222" transform="rotate(${i * 30} 128 128)"/>`).join("")}<rect x="123" y="82" width="10" height="52" rx="4" fill="#111" transform="rotate(${n(start + t * 30)} 128 128)"/><rect x="125" y="58" width="6" height="78" rx="3" fill="#111" transform="rotate(${n(start * 3 + t * 360)} 128 128)"/><circle cx="128" cy="128" r="7" fill="#c22"/>`,
        );
    },
  },
];

/** SVG of every frame of one scene. `frames` frames cover t = 0 .. 1. */
export function drawScene(scene: Scene, seed: number, frames: number): readonly string[] {
  const draw = scene.draw(mulberry32(seed));
  return Array.from({ length: frames }, (_, i) => draw(frames === 1 ? 0 : i / (frames - 1)));
}
