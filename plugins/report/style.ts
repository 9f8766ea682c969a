/** The page's style sheet. One file, no fonts fetched; light and dark follow the reader's system. */
export const STYLE = `
:root{color-scheme:light dark;--ground:#f6f6f3;--card:#fff;--ink:#1d2226;--quiet:#5d666d;--line:#dfe1de;--accent:#0f6f78;--accent-soft:#d7ebec;
--good:#1c7c45;--good-soft:#dff2e5;--bad:#b3372b;--bad-soft:#fbe6e2;--mixed:#8a5a00;--mixed-soft:#fbefd3;--shadow:0 1px 2px #0001,0 4px 14px #0000000d}
@media (prefers-color-scheme:dark){:root{--ground:#121517;--card:#1b2023;--ink:#e7eaea;--quiet:#9ba5aa;--line:#2f363a;--accent:#54bfc9;--accent-soft:#173a3e;
--good:#63cf8d;--good-soft:#15331f;--bad:#ff8d7f;--bad-soft:#3f1d18;--mixed:#eec05b;--mixed-soft:#392d10;--shadow:none}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;scroll-padding-top:4rem}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif;-webkit-text-size-adjust:100%}
h1,h2,h3,p,figure,ul,ol,dl,dd{margin:0;padding:0}
h1{font-size:2rem;line-height:1.2;letter-spacing:-.02em;text-wrap:balance}
h2{font-size:1.35rem;letter-spacing:-.01em;margin-bottom:.25rem}h2+.card{margin-top:.9rem}
h3{font-size:1rem;margin:1.6rem 0 .7rem}
code{font:.82em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.wrap{max-width:1180px;margin:0 auto;padding:0 1.25rem}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:1rem;background:var(--card);padding:.5rem 1rem;z-index:9}
nav{position:sticky;top:0;z-index:5;background:color-mix(in srgb,var(--ground) 88%,transparent);backdrop-filter:blur(8px);border-bottom:1px solid var(--line)}
nav .wrap{display:flex;gap:1.1rem;align-items:center;height:3.1rem;overflow-x:auto}
nav a{color:var(--quiet);text-decoration:none;font-size:.9rem;white-space:nowrap}nav a:hover{color:var(--ink)}
nav button{margin-left:auto;flex:none}
button{font:inherit;font-size:.85rem;color:var(--ink);background:var(--card);border:1px solid var(--line);border-radius:7px;padding:.3rem .75rem;cursor:pointer}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
header{padding:3rem 0 1.5rem}
.eyebrow{color:var(--quiet);font-size:.9rem;margin-bottom:.6rem}
.verdict{margin-top:1.3rem;padding:1rem 1.2rem;border-radius:12px;background:var(--soft);border-left:5px solid var(--tone);max-width:62rem}
.verdict ul{list-style:none;display:grid;gap:.3rem}
.good{--tone:var(--good);--soft:var(--good-soft)}.bad{--tone:var(--bad);--soft:var(--bad-soft)}.mixed{--tone:var(--mixed);--soft:var(--mixed-soft)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.8rem;margin-top:1.4rem}
.figures div{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:.8rem 1rem;box-shadow:var(--shadow)}
.figures dt{font-size:.82rem;color:var(--quiet)}.figures dd{font-size:1.45rem;font-weight:650;letter-spacing:-.02em;line-height:1.3}
.figures small{display:block;font-size:.78rem;font-weight:400;letter-spacing:0;color:var(--quiet)}
section{padding:2rem 0 .5rem}
.lead{color:var(--quiet);max-width:64ch;margin-bottom:1.1rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:1rem 1.1rem;box-shadow:var(--shadow)}
.card h3{margin:0 0 .6rem}
.grid{display:grid;gap:.9rem}.clips{grid-template-columns:repeat(auto-fill,minmax(min(45%,160px),1fr))}.pairs{grid-template-columns:repeat(auto-fill,minmax(330px,1fr))}.charts{grid-template-columns:repeat(auto-fit,minmax(min(100%,320px),1fr))}
.sheets{grid-template-columns:repeat(auto-fill,minmax(min(100%,540px),1fr))}
.strip{display:grid;grid-template-columns:repeat(auto-fill,minmax(112px,1fr));gap:.7rem}
figure{min-width:0}.pairs .strip{grid-template-columns:repeat(3,minmax(0,150px))}.pairs .two{grid-template-columns:repeat(2,minmax(0,180px))}
.frame{position:relative;border-radius:8px;overflow:hidden;background:#8883}
video,.frame img{display:block;width:100%;height:auto;aspect-ratio:var(--aspect,1);object-fit:cover}
.given .frame{outline:2px solid var(--accent);outline-offset:-2px}
figcaption{font-size:.78rem;line-height:1.35;color:var(--quiet);margin-top:.35rem;overflow-wrap:anywhere}
.clips figcaption b{color:var(--ink);font-weight:500;display:block;font-size:.85rem}
.mark{display:inline-block;font-weight:600}.yes{color:var(--good)}.no{color:var(--bad)}
.nearest{display:flex;gap:.4rem;align-items:flex-start;margin-top:.3rem}.nearest .frame{width:34px;flex:none;border-radius:5px}.clamp{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:3;overflow:hidden}
svg.chart{display:block;width:100%;height:auto;font:11px system-ui,sans-serif;fill:var(--quiet)}
svg.funnel{max-width:900px;margin:0 auto;font-size:13px}
.chart line{stroke:var(--line)}.chart path{fill:none;stroke-linejoin:round}.chart .raw{stroke:var(--accent);stroke-width:1;opacity:.28}.chart .smooth{stroke:var(--accent);stroke-width:2.4}.chart .end{fill:var(--accent)}
.funnel .kept{fill:var(--accent);opacity:.82}.funnel .first{opacity:1}.funnel .count{fill:var(--card);font-weight:650}.funnel .rule{fill:var(--ink)}.funnel .drops .dropped{fill:var(--bad);font-weight:600}
.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.55rem .8rem .55rem 0;border-bottom:1px solid var(--line);vertical-align:top}tr:last-child>*{border-bottom:0}
th{font-weight:550}thead th{font-size:.78rem;color:var(--quiet);font-weight:500}td.num{font-variant-numeric:tabular-nums;white-space:nowrap}th small,td small{display:block;font-weight:400;color:var(--quiet);max-width:56ch}
td.value{font-weight:650;font-size:1.02rem;white-space:nowrap}
.badge{display:inline-block;border-radius:99px;padding:.05rem .6rem;font-size:.78rem;font-weight:600;background:var(--soft);color:var(--tone);white-space:nowrap}
.bar{display:block;height:.5rem;border-radius:9px;background:var(--accent);min-width:2px}.bar.reused{opacity:.35}
td.wide{width:34%;vertical-align:middle}
.quiet,.quiet td{color:var(--quiet)}
details{margin-top:.9rem}summary{cursor:pointer;color:var(--quiet);font-size:.9rem}
.tree,.tree ul{list-style:none}.tree ul{margin-left:.8rem;padding-left:1.1rem;border-left:2px solid var(--line)}
.tree li{margin:.45rem 0;position:relative}.tree ul>li::before{content:"";position:absolute;left:-1.1rem;top:1.05rem;width:.8rem;border-top:2px solid var(--line)}
.node{display:inline-flex;flex-wrap:wrap;gap:.1rem .55rem;align-items:baseline;background:var(--card);border:1px solid var(--line);border-radius:9px;padding:.35rem .75rem;max-width:100%}
.node .role{font-size:.75rem;color:var(--accent);font-weight:600}.node .kind,.node small,.node code{color:var(--quiet);font-size:.78rem}.node .options{flex-basis:100%}
.best{display:flex;gap:1.5rem;flex-wrap:wrap}.best>figure{width:180px}.best>.tree{flex:1;min-width:min(100%,320px)}
.plain{padding-left:1.1rem;display:grid;gap:.35rem}
.versions{display:grid;grid-template-columns:repeat(auto-fill,minmax(220px,1fr));gap:.3rem 1.4rem;font-size:.88rem}.versions div{display:flex;gap:.6rem;justify-content:space-between;border-bottom:1px solid var(--line);padding:.2rem 0}.versions dt{color:var(--quiet)}.versions dd{text-align:right;overflow-wrap:anywhere}
footer{padding:2.5rem 0 4rem;color:var(--quiet);font-size:.85rem}
@media print{nav{display:none}body{background:#fff}.card{box-shadow:none;break-inside:avoid}}
`;

/**
 * Plays what is on the screen and lets a click, Enter or Space stop one clip and the button stop all. Without it, and
 * for readers who asked for less motion, the clips keep their own controls and stand still.
 */
export const SCRIPT = `
(()=>{const videos=[...document.querySelectorAll("video")],button=document.getElementById("play");
let on=!matchMedia("(prefers-reduced-motion: reduce)").matches;const seen=new Set(),held=new Set();
const apply=v=>{if(on&&seen.has(v)&&!held.has(v))v.play().catch(()=>0);else v.pause()};
const say=()=>{button.textContent=on?"Pause all clips":"Play all clips";button.setAttribute("aria-pressed",String(on))};
const watch=new IntersectionObserver(list=>{for(const {target,isIntersecting} of list){isIntersecting?seen.add(target):seen.delete(target);apply(target)}},{rootMargin:"80px"});
for(const v of videos){v.removeAttribute("controls");v.tabIndex=0;v.setAttribute("role","button");
const flip=()=>{held.has(v)||v.paused?(held.delete(v),v.play().catch(()=>0)):(held.add(v),v.pause())};
v.addEventListener("click",flip);v.addEventListener("keydown",e=>{if(e.key==="Enter"||e.key===" "){e.preventDefault();flip()}});watch.observe(v)}
button.hidden=videos.length===0;button.addEventListener("click",()=>{on=!on;held.clear();say();for(const v of videos)apply(v)});say()})();
`;
