// @ts-check
/** A request's layout, as `v1/layout` answers it, and questions about it. */

import { post } from "./client.js";
import { packOf } from "./scoring.js";

/**
 * @typedef {object} Segment
 * @property {"query" | "item" | "delimiter"} kind
 * @property {number | null} index of an item
 * @property {number} begin
 * @property {number} end
 * @typedef {object} Layout
 * @property {"isolated" | "causal"} isolation
 * @property {number} num_tokens
 * @property {Segment[]} segments
 * @property {number[]} positions
 * @property {[number, number, number, number][]} sees
 * @property {number} tile
 * @property {[number, number, number, number][]} tiles
 * @property {{ seen: number, computed: number, causal: number, all: number }} pairs
 * @property {string[]} token_strs
 */

/**
 * @param {import("./request_form.js").Filled} filled
 * @param {import("./scoring.js").Isolation} isolation
 * @param {AbortSignal} [signal]
 * @returns {Promise<Layout>}
 */
export const layoutOf = (filled, isolation, signal) =>
  post("v1/layout", { ...packOf(filled, isolation), return_token_strs: true }, signal);

/**
 * The place in `segments` of the one that a row or column lies in.
 * @param {Layout} layout
 * @param {number} row
 */
export function segmentAt(layout, row) {
  let [low, high] = [0, layout.segments.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (row < layout.segments[middle].end) high = middle;
    else low = middle + 1;
  }
  return low;
}

/**
 * @param {Layout} layout
 * @param {number} row
 * @param {number} column
 */
export function sees(layout, row, column) {
  const [prefixBegin, prefixEnd, ownBegin, ownEnd] = layout.sees[row];
  return (column >= prefixBegin && column < prefixEnd) || (column >= ownBegin && column < ownEnd);
}

/**
 * Whether a row of an item would read another item there.
 * @param {Segment} row
 * @param {Segment} column
 */
export const isNeighbour = (row, column) =>
  row.kind === "item" && column.kind === "item" && row.index !== column.index;

/**
 * The texts of the tokens of each item.
 * @param {Layout} layout
 * @returns {string[][]}
 */
export const itemTokens = (layout) =>
  layout.segments
    .filter((segment) => segment.kind === "item")
    .map((segment) => layout.token_strs.slice(segment.begin, segment.end));
