// @ts-check
/** An item's text, its tokens shaded by how surprising the model finds them. */

import { element } from "./dom.js";
import { percent, score } from "./numbers.js";

const MOST_SURPRISING = 8; // nats: a probability of 0.03%
const STEPS = [0, 0.25, 0.5, 0.75, 1];

/**
 * @param {string} text
 * @param {string[] | null} tokens
 * @param {(number | null)[] | null} logprobs of the last of these tokens
 * @returns {HTMLElement}
 */
export function shadedText(text, tokens, logprobs) {
  if (!tokens || !logprobs) return element("span", { class: "item-text" }, text.trim());
  const unscored = tokens.length - logprobs.length; // leading tokens that belong to the query
  const known = tokens.map((token, place) => ({ token, logprob: logprobs[place - unscored] ?? null }));
  return element(
    "details",
    { class: "item-text" },
    element(
      "summary",
      { title: "Show the log-probability of each token" },
      ...known.map(({ token, logprob }, place) =>
        element("span", { class: "token", "--level": level(logprob) }, place ? token : token.trimStart()),
      ),
    ),
    element(
      "ol",
      { class: "token-list", "aria-label": "Log-probability and probability of each token" },
      ...known.map(({ token, logprob }) =>
        element(
          "li",
          {},
          element("b", { class: "token", "--level": level(logprob) }, token),
          " ",
          element("span", {}, logprob === null ? "not scored" : `${score(logprob)} · ${percent(Math.exp(logprob))}`),
        ),
      ),
    ),
  );
}

/** What the shading means. */
export const shadingScale = () =>
  element(
    "p",
    { class: "scale" },
    "Tokens: expected",
    ...STEPS.map((step) => element("i", { "--level": step, "aria-hidden": "true" })),
    "surprising. Open an item for the numbers.",
  );

/** @param {number | null} logprob */
const level = (logprob) => (logprob === null ? 0 : Math.min(1, -logprob / MOST_SURPRISING).toFixed(3));
