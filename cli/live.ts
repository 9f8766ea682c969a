/** The last lines of a terminal, drawn again in place. What is printed above them stays. */

export interface Screen {
  readonly columns?: number;
  write(text: string): unknown;
}

/** Ten drawings a second look continuous; people read far fewer. */
const FRAME_MS = 100;

export class LiveLines {
  readonly #screen: Screen;
  readonly #draw: (columns: number) => readonly string[];
  #shown: readonly string[] = [];
  #timer: Timer | null = null;
  #beat: Timer | null = null;

  /** `draw` gives the lines of now, none of them wider than it was told. */
  constructor(screen: Screen, draw: (columns: number) => readonly string[]) {
    this.#screen = screen;
    this.#draw = draw;
    // Elapsed times go on while nothing happens.
    this.#beat = setInterval(() => this.#paint([]), 1000);
  }

  /** Something changed: draws soon. */
  touch(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = null;
      this.#paint([]);
    }, FRAME_MS);
  }

  /** Prints lines above the live ones. */
  print(...lines: readonly string[]): void {
    this.#paint(lines);
  }

  /** Takes the live lines away; what was printed remains. */
  close(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#beat !== null) clearInterval(this.#beat);
    this.#timer = this.#beat = null;
    this.#screen.write(this.#erase());
    this.#shown = [];
  }

  #paint(above: readonly string[]): void {
    if (this.#beat === null) {
      if (above.length > 0) this.#screen.write(`${above.join("\n")}\n`);
      return;
    }
    // The last column stays free: writing into it wraps on some terminals.
    const lines = this.#draw((this.#screen.columns ?? 80) - 1);
    const same =
      above.length === 0 && lines.length === this.#shown.length && lines.every((line, i) => line === this.#shown[i]);
    if (same) return;
    const kept = above.map((line) => `${line}\n`).join("");
    this.#screen.write(`${this.#erase()}${kept}${lines.join("\n")}`);
    this.#shown = lines;
  }

  #erase(): string {
    if (this.#shown.length === 0) return "";
    const up = this.#shown.length - 1;
    // To the first live column, then clear from there to the end of the screen.
    return `\r${up > 0 ? `\u001b[${up}A` : ""}\u001b[J`;
  }
}
