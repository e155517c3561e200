// @ts-check
/** Names the row and the column under the pointer, or where the arrow keys have led. */

import { element } from "./dom.js";
import { isNeighbour, segmentAt, sees } from "./mask_layout.js";
import { clear, drawCross } from "./mask_picture.js";

/**
 * @typedef {import("./mask_layout.js").Layout} Layout
 * @typedef {import("./mask_layout.js").Segment} Segment
 */

export class MaskReading {
  /**
   * @param {HTMLElement} stage what the pointer moves over and what has the focus
   * @param {HTMLCanvasElement} cross
   * @param {HTMLElement} text
   */
  constructor(stage, cross, text) {
    this.stage = stage;
    this.cross = cross;
    this.text = text;
    /** @type {Layout | null} */
    this.layout = null;
    this.place = { row: 0, column: 0 };
    stage.addEventListener("pointermove", (event) => this.#point(event));
    stage.addEventListener("pointerdown", (event) => this.#point(event));
    stage.addEventListener("pointerleave", () => this.#leave());
    stage.addEventListener("keydown", (event) => this.#key(event));
    stage.addEventListener("focus", () => stage.matches(":focus-visible") && this.#show());
    stage.addEventListener("blur", () => this.#leave());
  }

  /** @param {Layout | null} layout */
  use(layout) {
    this.layout = layout;
    this.place = { row: (layout?.num_tokens ?? 1) - 1, column: 0 };
    this.#leave();
  }

  /** @param {PointerEvent} event */
  #point(event) {
    if (!this.layout) return;
    const box = this.stage.getBoundingClientRect();
    const size = this.layout.num_tokens;
    const at = (/** @type {number} */ share) => Math.max(0, Math.min(size - 1, Math.floor(share * size)));
    this.place = {
      row: at((event.clientY - box.top) / box.height),
      column: at((event.clientX - box.left) / box.width),
    };
    this.#show();
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (!this.layout) return;
    const last = this.layout.num_tokens - 1;
    const { row, column } = this.place;
    const to = {
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      Home: [row, 0],
      End: [row, last],
      PageUp: [0, column],
      PageDown: [last, column],
    }[event.key];
    if (!to) return;
    event.preventDefault();
    const within = (/** @type {number} */ value) => Math.max(0, Math.min(last, value));
    this.place = { row: within(to[0]), column: within(to[1]) };
    this.#show();
  }

  #show() {
    if (!this.layout) return;
    const { row, column } = this.place;
    drawCross(this.cross, this.layout, row, column);
    const [of, to] = [row, column].map((at) => this.#segment(at));
    const seen = sees(this.layout, row, column);
    this.text.replaceChildren(
      ...this.#named(row, of),
      element("br"),
      seen ? "sees " : "does not see ",
      ...this.#named(column, to),
      element("br"),
      why(seen, row, column, of, to),
    );
  }

  #leave() {
    if (this.stage.matches(":focus-visible")) return;
    clear(this.cross);
    this.text.textContent = "Point at the picture, or move through it with the arrow keys: rows read, columns are read.";
  }

  /** @param {number} at */
  #segment(at) {
    const layout = /** @type {Layout} */ (this.layout);
    return layout.segments[segmentAt(layout, at)];
  }

  /**
   * @param {number} at
   * @param {Segment} segment
   */
  #named(at, segment) {
    const layout = /** @type {Layout} */ (this.layout);
    const whose = segment.kind === "item" ? `item ${(segment.index ?? 0) + 1}` : segment.kind;
    return [element("b", {}, `“${layout.token_strs[at]}”`), ` (${whose}, position ${layout.positions[at]})`];
  }
}

/**
 * @param {boolean} seen
 * @param {number} row
 * @param {number} column
 * @param {Segment} of
 * @param {Segment} to
 */
function why(seen, row, column, of, to) {
  if (isNeighbour(of, to)) {
    if (seen) return "A leak: this is another item.";
    return column > row ? "It comes later, and is another item." : "It is another item.";
  }
  if (seen && row === column) return "Itself.";
  if (seen && of.kind === "query") return "The query reads itself, from its beginning.";
  if (seen && to.kind === "item") return "Its own item.";
  if (seen) return `Every item sees the ${to.kind === "query" ? "query" : "first delimiter"}.`;
  return column > row ? "It comes later." : "A delimiter is seen by no item.";
}
