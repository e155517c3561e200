// @ts-check
/** The form: what it holds, how files get into it, and which of its fields is wrong. */

import { byId } from "./dom.js";
import { EXAMPLE } from "./example.js";
import { counted, whole } from "./numbers.js";

/**
 * @typedef {"labels" | "likelihood" | "rerank"} Method
 * @typedef {object} Filled
 * @property {string} query
 * @property {string[]} items
 * @property {string[]} labels
 * @property {Method} method
 * @property {string} model
 * @property {string} tokenization
 * @property {boolean} softmax
 * @property {boolean} untrusted
 */

const MOST_FILE_BYTES = 8 << 20;
const HINTS = {
  labels: "P(label | query, item): how likely the model is to go on with the first label after query and item.",
  likelihood: "log P(item | query): how likely the model is to continue the query with the item.",
  rerank: "How relevant each item is to the query, asked in the way that suits this model.",
};

const query = byId("query", HTMLTextAreaElement);
const items = byId("items", HTMLTextAreaElement);
const labels = byId("labels", HTMLInputElement);
const spaces = byId("spaces", HTMLInputElement);
const file = byId("items-file", HTMLInputElement);

/** @returns {Filled} */
export function readForm() {
  const method = chosenMethod();
  const spaced = (/** @type {string} */ text) =>
    spaces.checked && method !== "rerank" && !/^\s/.test(text) ? ` ${text}` : text;
  return {
    query: query.value,
    items: lines().map(spaced),
    labels: labels.value.split(",").map((text) => text.trim()).filter(Boolean).map(spaced),
    method,
    model: byId("model", HTMLSelectElement).value || "default",
    tokenization: byId("tokenization", HTMLSelectElement).value,
    softmax: byId("softmax", HTMLInputElement).checked,
    untrusted: byId("untrusted", HTMLInputElement).checked,
  };
}

/**
 * Fills the form with the example and keeps its hints up to date.
 * @param {(message: string) => void} refuse says why a file was not taken
 */
export function startForm(refuse) {
  query.value = EXAMPLE.query;
  items.value = EXAMPLE.items.join("\n");
  labels.value = EXAMPLE.labels;
  items.addEventListener("input", showCount);
  document.getElementsByName("method").forEach((radio) => radio.addEventListener("change", showMethod));
  file.addEventListener("change", () => takeFile(file.files?.[0], refuse));
  items.addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    items.classList.add("dropping");
  });
  items.addEventListener("dragleave", () => items.classList.remove("dropping"));
  items.addEventListener("drop", (event) => {
    items.classList.remove("dropping");
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    takeFile(event.dataTransfer.files[0], refuse);
  });
  showCount();
  showMethod();
}

/**
 * Says which field must be filled before anything is asked; null if none.
 * @param {Filled} filled
 */
export function whatIsMissing(filled) {
  if (!filled.items.length) return { field: "items", message: "There are no items: write one per line." };
  if (filled.method !== "labels" || filled.labels.length) return null;
  return { field: "labels", message: "There are no labels: write one, or several with commas between them." };
}

/**
 * Marks the field that the server found wrong; null marks none.
 * @param {string | null} param such as `items[3]`
 */
export function markWrong(param) {
  const name = param?.match(/^\w+/)?.[0] ?? "";
  const wrong = { query, items, documents: items, labels, label_token_ids: labels }[name];
  for (const field of [query, items, labels]) {
    if (field === wrong) field.setAttribute("aria-invalid", "true");
    else field.removeAttribute("aria-invalid");
  }
}

function lines() {
  return items.value.split(/\r?\n/).filter((line) => line.trim() !== "");
}

/** @returns {Method} */
function chosenMethod() {
  const chosen = /** @type {HTMLInputElement | null} */ (document.querySelector("input[name=method]:checked"));
  return /** @type {Method} */ (chosen?.value ?? "labels");
}

function showCount() {
  byId("items-count").textContent = counted(lines().length, "item");
}

function showMethod() {
  const method = chosenMethod();
  byId("method-hint").textContent = HINTS[method];
  byId("labels-field").hidden = method !== "labels";
}

/**
 * @param {File | undefined} given
 * @param {(message: string) => void} refuse
 */
async function takeFile(given, refuse) {
  if (!given) return;
  if (given.size > MOST_FILE_BYTES) {
    refuse(`${given.name} has ${whole(given.size)} bytes; at most ${whole(MOST_FILE_BYTES)} are read.`);
    return;
  }
  items.value = (await given.text()).replace(/^\uFEFF/, "").replace(/\s+$/, "");
  file.value = "";
  showCount();
}
