// @ts-check
/** The section with the mask: the picture, what its colours mean, and its numbers. */

import { itemHue } from "./colours.js";
import { byId, element } from "./dom.js";
import { drawMask } from "./mask_picture.js";
import { MaskReading } from "./mask_reading.js";
import { percent, whole } from "./numbers.js";

/** @typedef {import("./mask_layout.js").Layout} Layout */

const LEADS = {
  isolated:
    "A row of this picture is a token that reads; a column is a token that is read. Every item reads the query and " +
    "itself, and nothing else. Positions begin anew after the query for each item.",
  causal:
    "Now every item also reads all items above it (red). This is what an ordinary causal model does with a packed list.",
};

const picture = byId("mask-picture", HTMLCanvasElement);
const withTiles = byId("tiles", HTMLInputElement);
const reading = new MaskReading(
  byId("mask-stage"),
  byId("mask-cross", HTMLCanvasElement),
  byId("mask-reading"),
);
/** @type {Layout | null} */
let shown = null;

export function startMask() {
  withTiles.addEventListener("change", redraw);
  new ResizeObserver(redraw).observe(picture);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}

/** @param {Layout} layout */
export function showMask(layout) {
  shown = layout;
  byId("mask-body").hidden = false;
  byId("mask-lead").textContent = LEADS[layout.isolation];
  byId("mask-stage").setAttribute("data-isolation", layout.isolation);
  reading.use(layout);
  byId("mask-legend").replaceChildren(...legend(layout));
  byId("mask-facts").replaceChildren(...facts(layout));
  byId("tiles-note").textContent =
    `Drawn with tiles of ${layout.tile} × ${layout.tile}. The kernels’ own are larger; the same C++ op schedules them.`;
  redraw();
}

/** @param {string} reason why there is no picture */
export function hideMask(reason) {
  shown = null;
  reading.use(null);
  byId("mask-body").hidden = true;
  byId("mask-lead").textContent = reason;
}

function redraw() {
  if (shown && picture.clientWidth) drawMask(picture, shown, withTiles.checked);
}

/** @param {Layout} layout */
function legend(layout) {
  const entry = (/** @type {string} */ text, /** @type {string[]} */ hues, kind = "") =>
    element(
      "li",
      {},
      ...hues.map((hue) => element("span", { class: `swatch ${kind}`, "--hue": `var(${hue})` })),
      text,
    );
  const items = layout.segments.filter((segment) => segment.kind === "item").length;
  const made = [
    entry("query", ["--query-hue"]),
    entry("its own item", Array.from({ length: Math.min(items, 3) }, (_, index) => itemHue(index))),
    entry("not seen", ["--unseen-hue"]),
  ];
  if (layout.isolation === "causal") made.push(entry("another item", ["--leak-hue"]));
  if (layout.segments.some((segment) => segment.kind === "delimiter")) {
    made.push(entry("delimiter", ["--delimiter-hue"]));
  }
  made.push(entry("tile computed", ["--ink"], "outlined"), entry("tile skipped", ["--ink"], "hatched"));
  return made;
}

/** @param {Layout} layout */
function facts(layout) {
  const { seen, computed, causal } = layout.pairs;
  const rows = [
    ["Tokens", whole(layout.num_tokens)],
    ["Tiles computed", whole(layout.tiles.length)],
    ["Pairs of row and column that are seen", whole(seen)],
    ["Pairs computed in these tiles", whole(computed)],
    ["Seen, as a share of a causal mask’s pairs", percent(seen / causal)],
  ];
  return rows.flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)]);
}
