/** Words in a path: "videos/red-panda_climbs.1080p.mp4" -> "red panda climbs". */
import { basename, dirname, extname } from "node:path";

/** What cameras, recorders and downloaders put into names. */
const NOISE =
  /^(\d+|\d+[pk]|\d+x\d+|\d+fps|img|dsc|dscn|mov|mvi|gopr|vid|pxl|video|videos|clip|clips|scene|shot|part|file|output|out|final|copy|untitled|sample|samples|test|tmp|temp|data|new|h26[45]|hevc|av1|hd|uhd|sdr|hdr)$/i;

/** Words of the file's name, else of its folder's; null when neither says anything. */
export function wordsOf(path: string): string | null {
  return wordsIn(basename(path, extname(path))) ?? wordsIn(basename(dirname(path)));
}

function wordsIn(name: string): string | null {
  const words = name
    .replace(/([\p{Ll}])([\p{Lu}])/gu, "$1 $2")
    .split(/[^\p{L}\p{N}']+/u)
    // A mark of letters and digits ("GOPR0042", "a3f9") is a name, not a word.
    .filter((word) => word !== "" && !NOISE.test(word) && !(/\d/.test(word) && /\p{L}/u.test(word)));
  const text = words.join(" ").toLowerCase();
  return text.length < 3 ? null : text;
}
