// @ts-check
/** The essential probe: change one item, and see whether the score of any other moves. It judges by answers alone. */

import { post } from "./client.js";
import { packOf } from "./scoring.js";

/**
 * @typedef {import("./request_form.js").Filled} Filled
 * @typedef {import("./scoring.js").Isolation} Isolation
 * @typedef {{ scores: number[][], tokens: number }} Measured log-scores of each item, and tokens of the request
 * @typedef {object} Check
 * @property {string} name
 * @property {number} effect the largest change of a log-score
 * @property {number} threshold
 * @typedef {object} Report
 * @property {string[]} items
 * @property {number[][]} effects [changed item][watched item]
 * @property {boolean[][]} leaks where an effect is above its threshold
 * @property {Check[]} checks
 * @property {number} noise
 * @property {number} rounding
 * @property {number} signal by how much the items' own scores differ
 * @property {number} requests
 */

export const MOST_ITEMS = 8;
const TOLERANCE = 0.001;
const MOST_ROUNDING = 0.05; // more than that is no rounding
const LONGER = " and so on, and so forth, for as long as anybody cares to read";
const OTHER = " The sentence that stood here is gone.";

/**
 * @param {Filled} filled
 * @param {Isolation} isolation
 * @param {(done: number, of: number) => void} progress
 * @param {AbortSignal} signal
 * @returns {Promise<Report>}
 */
export async function audit(filled, isolation, progress, signal) {
  const items = filled.items.slice(0, MOST_ITEMS);
  const of = 5 + 2 * items.length;
  let requests = 0;
  const measure = async (/** @type {string[]} */ list) => {
    const made = await measured({ ...filled, items: list }, isolation, signal);
    progress(++requests, of);
    return made;
  };

  const base = await measure(items);
  const noise = largest(effectsOn(base, await measure(items), items));
  const more = await measure([...items, OTHER]); // a causal model lets no earlier item see it
  const rounding = Math.min(largest(effectsOn(base, more, items)), MOST_ROUNDING);
  const sameShape = Math.max(TOLERANCE, 3 * noise);
  const otherShape = Math.max(sameShape, 3 * rounding);

  const effects = items.map(() => items.map(() => 0));
  const leaks = items.map(() => items.map(() => false));
  /** @type {Check[]} */
  const checks = [];
  for (const [name, change] of /** @type {[string, (text: string) => string][]} */ ([
    ["Other words in an item", otherWords],
    ["A longer item", (text) => text + LONGER],
  ])) {
    const check = { name, effect: 0, threshold: sameShape };
    for (const [changed, text] of items.entries()) {
      const after = await measure(items.with(changed, change(text)));
      const threshold = after.tokens === base.tokens ? sameShape : otherShape;
      check.threshold = Math.max(check.threshold, threshold);
      effectsOn(base, after, items).forEach((effect, watched) => {
        if (watched === changed) return;
        check.effect = Math.max(check.effect, effect);
        effects[changed][watched] = Math.max(effects[changed][watched], effect);
        leaks[changed][watched] ||= effect > threshold;
      });
    }
    checks.push(check);
  }

  for (const [name, order] of /** @type {[string, number[]][]} */ ([
    ["The list backwards", items.map((_, at) => items.length - 1 - at)],
    ["The first item last", items.map((_, at) => (at + 1) % items.length)],
  ])) {
    const after = await measure(order.map((at) => items[at]));
    const moved = order.map((from, at) => distance(base.scores[from], after.scores[at]));
    checks.push({ name, effect: largest(moved), threshold: otherShape });
  }
  return { items, effects, leaks, checks, noise, rounding, signal: spread(base.scores), requests };
}

/**
 * Whether no item was seen to influence another; null: the scores hardly differ, so nothing could be seen.
 * @param {Report} report
 */
export function isClean({ checks, signal }) {
  if (checks.some((check) => check.effect > check.threshold)) return false;
  return signal > 3 * Math.max(...checks.map((check) => check.threshold)) ? true : null;
}

/**
 * @param {Filled} filled
 * @param {Isolation} isolation
 * @param {AbortSignal} signal
 * @returns {Promise<Measured>}
 */
async function measured(filled, isolation, signal) {
  const byLabels = filled.method === "labels";
  const options = byLabels ? { labels: filled.labels, return_logprob: true } : {};
  const answer = await post("v1/score", { ...packOf(filled, isolation), ...options }, signal);
  const rows = answer.logprobs ?? answer.scores;
  return {
    scores: rows.map((/** @type {any} */ row) => (Array.isArray(row) ? row : [row.score]).map(Number)),
    tokens: answer.usage.prompt_tokens,
  };
}

/**
 * The words in reverse: another content, mostly of as many tokens.
 * @param {string} text
 */
function otherWords(text) {
  const words = text.trim().split(/\s+/);
  const changed = `${/^\s/.test(text) ? " " : ""}${words.toReversed().join(" ")}`;
  return changed === text ? OTHER : changed;
}

/**
 * @param {Measured} before
 * @param {Measured} after
 * @param {string[]} items
 */
const effectsOn = (before, after, items) => items.map((_, at) => distance(before.scores[at], after.scores[at]));

/**
 * @param {number[]} a
 * @param {number[]} b
 */
const distance = (a, b) => largest(a.map((value, at) => Math.abs(value - b[at])));

/** @param {number[]} values */
const largest = (values) => values.reduce((most, value) => Math.max(most, value), 0);

/** @param {number[][]} scores */
function spread(scores) {
  const first = scores.map((row) => row[0]);
  return Math.max(...first) - Math.min(...first);
}
