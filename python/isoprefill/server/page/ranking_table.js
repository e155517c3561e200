// @ts-check
/** The ranking as a table, a part of a long list at a time. */

import { itemHue } from "./colours.js";
import { element } from "./dom.js";
import { bestFirst } from "./movement.js";
import { counted, score, whole } from "./numbers.js";
import { shadedText, shadingScale } from "./token_shading.js";

/**
 * @typedef {import("./scoring.js").Scored} Scored
 * @typedef {object} Shown
 * @property {Scored} result
 * @property {string[][] | null} tokens of each item
 * @property {Scored | null} isolated the scores beside which `result` stands, if items see each other there
 * @property {import("./movement.js").Movement[] | null} moves
 */

const FIRST_ROWS = 20; // so that the mask is not far below
const MORE_ROWS = 100;

/**
 * @param {HTMLElement} place
 * @param {Shown} shown
 */
export function showRanking(place, shown) {
  const order = bestFirst(shown.result);
  const body = element("tbody", { role: "rowgroup" });
  const more = element("button", { type: "button" });
  const add = (/** @type {number} */ rows) => {
    const begin = body.childElementCount;
    body.append(...order.slice(begin, begin + rows).map((index, at) => row(shown, index, begin + at + 1)));
    const left = order.length - body.childElementCount;
    more.hidden = left === 0;
    more.textContent = `Show ${whole(Math.min(left, MORE_ROWS))} more of ${counted(left, "item")}`;
  };
  more.addEventListener("click", () => {
    const first = body.childElementCount;
    add(MORE_ROWS);
    const next = /** @type {HTMLElement} */ (body.children[first]);
    next.tabIndex = -1;
    next.focus();
  });
  add(FIRST_ROWS);
  const heads = ["Place", "Item", shown.result.meaning, ...(shown.moves ? ["Moved"] : []), "In the list"];
  const classes = ["rank", "", "", ...(shown.moves ? [""] : []), "number tokens-count"];
  place.replaceChildren(
    element(
      "table",
      { class: shown.moves ? "ranking contaminated" : "ranking", role: "table", "aria-label": "Items, best first" },
      element(
        "thead",
        { role: "rowgroup" },
        element(
          "tr",
          { role: "row" },
          ...heads.map((head, at) => element("th", { role: "columnheader", class: classes[at] }, head)),
        ),
      ),
      body,
    ),
    more,
    ...(shown.tokens && shown.result.items.some((item) => item.logprobs) ? [shadingScale()] : []),
  );
}

/**
 * With its roles spelt out: on a phone, rows are laid out as grids, and browsers then forget that they are rows.
 * @param {Shown} shown
 * @param {number} index
 * @param {number} place
 */
function row(shown, index, place) {
  const item = shown.result.items[index];
  const move = shown.moves?.[index];
  const alone = shown.isolated?.items[index];
  return element(
    "tr",
    { role: "row" },
    cell("rank", String(place)),
    cell("item-cell", shadedText(item.text, shown.tokens?.[index] ?? null, item.logprobs)),
    cell(
      "score",
      score(item.score),
      element("span", { class: "bar", "--share": item.share.toFixed(4) }, element("span")),
      alone ? element("span", { class: "before" }, `alone: ${score(alone.score)}`) : null,
    ),
    move ? cell(move.before === move.after ? "move" : "move changed", moved(move)) : null,
    cell(
      "number tokens-count",
      element("span", { class: "swatch", "--hue": `var(${itemHue(index)})`, "aria-hidden": "true" }),
      whole(index + 1),
    ),
  );
}

/**
 * @param {string} kind
 * @param {...(Node | string | null)} children
 */
const cell = (kind, ...children) => element("td", { role: "cell", class: kind }, ...children);

/** @param {import("./movement.js").Movement} move */
function moved({ before, after }) {
  if (before === after) return "same";
  return before > after ? `up ${before - after}` : `down ${after - before}`;
}
