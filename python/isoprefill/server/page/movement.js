// @ts-check
/** Which items move when they see each other, and the words for it. */

import { counted, score, shortened } from "./numbers.js";

/**
 * @typedef {import("./scoring.js").Scored} Scored
 * @typedef {object} Movement of one item
 * @property {number} before rank when isolated, from 1
 * @property {number} after rank when items see each other
 * @property {number} change of the score
 */

/**
 * Places in the list, best first; equal scores stay in the list's order.
 * @param {Scored} result
 * @returns {number[]}
 */
export const bestFirst = (result) =>
  result.items
    .map((item) => item.index)
    .sort((a, b) => (result.items[b].score ?? -Infinity) - (result.items[a].score ?? -Infinity) || a - b);

/**
 * @param {Scored} isolated
 * @param {Scored} causal
 * @returns {Movement[]} in the order of the list
 */
export function movements(isolated, causal) {
  const before = ranks(isolated);
  const after = ranks(causal);
  return isolated.items.map((item, index) => ({
    before: before[index],
    after: after[index],
    change: (causal.items[index].score ?? 0) - (item.score ?? 0),
  }));
}

/**
 * What happened, and why it is wrong: a paragraph each.
 * @param {Scored} isolated
 * @param {Scored} causal
 * @param {Movement[]} moves
 * @returns {string[]}
 */
export function movementInWords(isolated, causal, moves) {
  if (moves.length === 1) return ["There is one item, and nothing stands above it. Score a list of several."];
  const moved = moves.filter((move) => move.before !== move.after).length;
  const index = largest(moves);
  const item = isolated.items[index];
  const { before, after } = moves[index];
  const place = before === after ? `stays in place ${before}` : `goes from place ${before} to ${after}`;
  return [
    `${moved} of ${counted(moves.length, "item")} changed places. “${shortened(item.text)}” ${place}: ` +
      `${score(item.score)} became ${score(causal.items[index].score)}, because it now also reads ` +
      `${index === 1 ? "the item" : `the ${counted(index, "item")}`} above it in the list.`,
    "That is wrong: nothing about this item or the query changed. Its score now depends on what stands above it, so " +
      "the same list in another order gets another ranking. Only the first item keeps its score: nothing stands above it.",
  ];
}

/** @param {Scored} result */
function ranks(result) {
  const made = new Array(result.items.length).fill(0);
  bestFirst(result).forEach((index, place) => (made[index] = place + 1));
  return made;
}

/**
 * The item that moved most. Not the first: its score is the same, and if its place is not, that is for the others'.
 * @param {Movement[]} moves
 */
function largest(moves) {
  let found = 1;
  moves.forEach((move, index) => {
    if (index === 0) return;
    const [places, most] = [Math.abs(move.before - move.after), Math.abs(moves[found].before - moves[found].after)];
    const further = places === most && Math.abs(move.change) > Math.abs(moves[found].change);
    if (places > most || further) found = index;
  });
  return found;
}
