// @ts-check
/** An item's text, its tokens shaded by how surprising the model finds them. */

import { element } from "./dom.js";
import { percent, score } from "./numbers.js";

const MOST_SURPRISING = 8; // nats: a probability of 0.03%
const PART = "\uFFFD"; // what stands for a part of a character
const STEPS = [0, 0.25, 0.5, 0.75, 1];

/** @typedef {{ token: string, logprob: number | null }} Token */

/**
 * @param {string} text
 * @param {string[] | null} tokens
 * @param {(number | null)[] | null} logprobs of the last of these tokens
 * @returns {HTMLElement}
 */
export function shadedText(text, tokens, logprobs) {
  if (!tokens || !logprobs) return element("span", { class: "item-text" }, text.trim());
  const unscored = tokens.length - logprobs.length; // leading tokens that belong to the query
  const known = whole(
    text,
    tokens.map((token, place) => ({ token, logprob: logprobs[place - unscored] ?? null })),
  );
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

/**
 * Puts together the tokens that are parts of characters, such as those of an emoji, under the text that they are.
 * @param {string} text
 * @param {Token[]} tokens
 * @returns {Token[]}
 */
function whole(text, tokens) {
  /** @type {Token[]} */
  const made = [];
  let at = 0;
  for (let place = 0; place < tokens.length; ) {
    const { token, logprob } = tokens[place++];
    if (!token.includes(PART)) {
      if (!text.startsWith(token, at)) return tokens; // it is not this text's
      made.push({ token, logprob });
      at += token.length;
      continue;
    }
    let sum = logprob;
    while (place < tokens.length && tokens[place].token.includes(PART)) {
      const next = tokens[place++].logprob;
      sum = sum === null || next === null ? null : sum + next;
    }
    const end = place < tokens.length ? text.indexOf(tokens[place].token, at) : text.length;
    if (end < at) return tokens;
    made.push({ token: text.slice(at, end), logprob: sum });
    at = end;
  }
  return made;
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
