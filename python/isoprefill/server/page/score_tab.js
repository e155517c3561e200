// @ts-check
/** The tab that scores: one request, its ranking and its mask, isolated or not. */

import { ApiProblem } from "./client.js";
import { byId, element, showMessage } from "./dom.js";
import { itemTokens, layoutOf } from "./mask_layout.js";
import { hideMask, showMask, startMask } from "./mask_section.js";
import { movementInWords, movements } from "./movement.js";
import { counted, time, whole } from "./numbers.js";
import { showRanking } from "./ranking_table.js";
import { markWrong, readForm, startForm, whatIsMissing } from "./request_form.js";
import { advised, scored } from "./scoring.js";

/**
 * @typedef {import("./request_form.js").Filled} Filled
 * @typedef {import("./scoring.js").Isolation} Isolation
 * @typedef {object} Answer
 * @property {import("./scoring.js").Scored | null} result null: not scored yet
 * @property {import("./mask_layout.js").Layout | null} layout null: there is none for this method
 */

const button = byId("score-button", HTMLButtonElement);
const causal = byId("causal", HTMLInputElement);
const errorBox = byId("score-error");
const measured = byId("measured");

/** @type {Filled | null} what the answers below are about */
let asked = null;
/** @type {Partial<Record<Isolation, Answer>>} */
let answers = {};
let running = new AbortController();

export function startScoreTab() {
  startForm((message) => showMessage(errorBox, message));
  startMask();
  const form = byId("score-form", HTMLFormElement);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    run(readForm());
  });
  form.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    form.requestSubmit();
  });
  causal.addEventListener("change", () => (asked && answers.isolated?.result ? run(asked) : preview()));
}

/** Draws the mask of what the form holds; nothing is scored. */
export async function preview() {
  const filled = readForm();
  if (filled.method === "rerank" || !filled.items.length) return;
  try {
    showMask(await layoutOf(filled, causal.checked ? "causal" : "isolated"));
  } catch (error) {
    if (!(error instanceof ApiProblem)) throw error;
    hideMask("The mask is drawn when the server has scored a list.");
  }
}

/**
 * Scores what is not scored yet, then shows it.
 * @param {Filled} filled
 */
async function run(filled) {
  running.abort();
  const { signal } = (running = new AbortController());
  if (filled !== asked) [asked, answers] = [filled, {}];
  showMessage(errorBox, null);
  markWrong(null);
  const missing = whatIsMissing(filled);
  if (missing) {
    showMessage(errorBox, missing.message);
    markWrong(missing.field);
    showNothing();
    return;
  }
  causal.disabled = filled.method === "rerank";
  if (causal.disabled) causal.checked = false;
  setBusy(true);
  try {
    answers.isolated ??= await answered(filled, "isolated", signal);
    if (causal.checked) answers.causal ??= await answered(filled, "causal", signal);
    show(filled);
    bringIntoView(byId("results"));
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof ApiProblem)) throw error;
    showMessage(errorBox, place(error) + advised(error));
    markWrong(error.param);
    if (answers.isolated) causal.checked = false;
    else showNothing();
  } finally {
    if (!signal.aborted) setBusy(false);
  }
}

/**
 * @param {Filled} filled
 * @param {Isolation} isolation
 * @param {AbortSignal} signal
 * @returns {Promise<Answer>}
 */
async function answered(filled, isolation, signal) {
  const layout = filled.method === "rerank" ? null : layoutOf(filled, isolation, signal);
  layout?.catch(() => {}); // the score's error is the one to show
  return { result: await scored(filled, isolation, signal), layout: await layout };
}

/** @param {Filled} filled */
function show(filled) {
  const isolated = answers.isolated;
  const seeing = causal.checked ? answers.causal : undefined;
  const { result, layout } = /** @type {Answer} */ (seeing ?? isolated);
  if (!result || !isolated?.result) return;
  const moves = seeing ? movements(isolated.result, result) : null;
  measured.textContent =
    `${counted(result.items.length, "item")} in ${time(result.milliseconds)} · ` +
    `${counted(result.tokens, "token")}${result.cached ? `, ${whole(result.cached)} from the cache` : ""} · ${result.how}`;
  showRanking(byId("ranking"), {
    result,
    tokens: layout && itemTokens(layout),
    isolated: seeing ? isolated.result : null,
    moves,
  });
  byId("ranking-hint").hidden = Boolean(moves);
  byId("ranking-hint").textContent =
    "Every score is what it would be if its item were the whole list." +
    (filled.method === "rerank" ? "" : " Let the items see each other, and watch what happens to the ranking.");
  const moved = byId("moved");
  moved.hidden = !moves;
  moved.replaceChildren(
    ...(moves ? movementInWords(isolated.result, result, moves) : []).map((text) => {
      const paragraph = document.createElement("p");
      paragraph.textContent = text;
      return paragraph;
    }),
  );
  if (layout) showMask(layout);
  else if (filled.method === "rerank") {
    hideMask("Reranking puts each item into a prompt of its own, which no other item is part of. Score by labels or by likelihood to see a mask.");
  }
}

/** An error is about what the form holds now: the ranking of an earlier request must not stand below it. */
function showNothing() {
  measured.textContent = "";
  byId("moved").hidden = true;
  byId("ranking").replaceChildren(element("p", { class: "empty" }, "Press Score to rank the items."));
}

/**
 * On a phone the ranking lies below the form.
 * @param {HTMLElement} section
 */
function bringIntoView(section) {
  if (section.getBoundingClientRect().top < innerHeight * 0.8) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  section.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
}

/** @param {ApiProblem} error */
function place({ param }) {
  const index = param?.match(/^(?:items|documents|texts)\[(\d+)\]/)?.[1];
  return index === undefined ? "" : `Item ${Number(index) + 1}: `;
}

/** @param {boolean} busy */
function setBusy(busy) {
  button.setAttribute("aria-busy", String(busy));
  byId("ranking").setAttribute("aria-busy", String(busy));
  if (busy) measured.textContent = "Scoring…";
}
