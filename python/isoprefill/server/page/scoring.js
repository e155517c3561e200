// @ts-check
/** Asks for scores, and brings the answers of the three methods into one form. */

import { ApiProblem, post } from "./client.js";

/**
 * @typedef {import("./request_form.js").Filled} Filled
 * @typedef {"isolated" | "causal"} Isolation
 * @typedef {object} ScoredItem
 * @property {number} index place in the list
 * @property {string} text
 * @property {number | null} score
 * @property {number} share of the bar, from 0 to 1
 * @property {(number | null)[] | null} logprobs of its tokens
 * @typedef {object} Scored
 * @property {ScoredItem[]} items in the order of the list
 * @property {string} meaning of the scores
 * @property {number} milliseconds
 * @property {number} tokens
 * @property {number} cached
 * @property {string} how
 */

/**
 * @param {Filled} filled
 * @param {Isolation} isolation
 * @param {AbortSignal} [signal]
 * @returns {Promise<Scored>}
 */
export async function scored(filled, isolation, signal) {
  const began = performance.now();
  const answer =
    filled.method === "rerank" ? await reranked(filled, signal) : await scoredItems(filled, isolation, signal);
  const details = answer.usage?.prompt_tokens_details ?? {};
  return {
    items: withShares(answer.items, answer.logarithmic),
    meaning: answer.meaning,
    milliseconds: performance.now() - began,
    tokens: answer.usage?.total_tokens ?? 0,
    cached: details.cached_tokens ?? 0,
    how: answer.how,
  };
}

/**
 * What `v1/score` and `v1/layout` both take.
 * @param {Filled} filled
 * @param {Isolation} isolation
 */
export const packOf = (filled, isolation) => ({
  query: filled.query,
  items: filled.items,
  model: filled.model,
  isolation,
  tokenization: filled.tokenization,
  ...(filled.untrusted ? { untrusted_text: true } : {}),
});

/**
 * @param {Filled} filled
 * @param {Isolation} isolation
 * @param {AbortSignal} [signal]
 */
async function scoredItems(filled, isolation, signal) {
  const byLabels = filled.method === "labels";
  const options = byLabels ? { labels: filled.labels, apply_softmax: filled.softmax } : {};
  const body = { ...packOf(filled, isolation), ...options };
  let answer;
  try {
    answer = await post("v1/score", { ...body, return_item_logprobs: true }, signal);
  } catch (error) {
    const hasClasses = error instanceof ApiProblem && error.code === "classification_model";
    if (!hasClasses || byLabels) throw error;
    answer = await post("v1/score", { ...body, apply_softmax: true }, signal);
  }
  const rows = answer.scores.map((/** @type {any} */ row) => (Array.isArray(row) ? row[0] : row.score));
  const label = answer.classes?.[0] ?? filled.labels[0];
  return {
    items: filled.items.map((text, index) => ({
      index,
      text,
      score: rows[index],
      logprobs: answer.item_logprobs?.[index] ?? null,
    })),
    logarithmic: !byLabels && !answer.classes,
    meaning: byLabels || answer.classes ? `P(“${label.trim()}”)` : "log P(item)",
    usage: answer.usage,
    how: `${answer.algorithm}, ${answer.isolation}`,
  };
}

/**
 * @param {Filled} filled
 * @param {AbortSignal} [signal]
 */
async function reranked(filled, signal) {
  const answer = await post("v1/rerank", { query: filled.query, documents: filled.items, model: filled.model }, signal);
  const relevance = new Map(
    answer.results.map((/** @type {any} */ result) => [result.index, result.relevance_score]),
  );
  return {
    items: filled.items.map((text, index) => ({
      index,
      text,
      score: relevance.get(index) ?? null,
      logprobs: null,
    })),
    logarithmic: false,
    meaning: "Relevance",
    usage: answer.usage,
    how: "reranked",
  };
}

/**
 * An error's message, and what to do about it where the API's words are not about this page.
 * @param {ApiProblem} error
 */
export function advised({ code, message }) {
  const words = message.replace(/\.$/, "");
  return code === "invalid_isolation" && words.includes("labels")
    ? `${words}. Give labels of one word each, or do not let items see each other.`
    : message;
}

/**
 * Probabilities are shown as parts of 1, or of the best if all are small; logarithms between the worst and the best.
 * @param {Omit<ScoredItem, "share">[]} items
 * @param {boolean} logarithmic
 * @returns {ScoredItem[]}
 */
function withShares(items, logarithmic) {
  let [least, most] = [Infinity, -Infinity];
  for (const { score } of items) {
    if (score === null) continue;
    least = Math.min(least, score);
    most = Math.max(most, score);
  }
  const floor = logarithmic ? least - 0.08 * (most - least || 1) : Math.min(0, least);
  const top = logarithmic ? most : most < 0.05 ? most : Math.max(1, most);
  return items.map((item) => ({
    ...item,
    share: item.score === null ? 0 : Math.max(0, Math.min(1, (item.score - floor) / (top - floor || 1))),
  }));
}
