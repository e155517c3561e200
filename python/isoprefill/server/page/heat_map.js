// @ts-check
/** The audit's report: the verdict, a heat map of who influences whom, and each check. */

import { isClean } from "./audit_probe.js";
import { element } from "./dom.js";
import { counted, shortened } from "./numbers.js";

/** @typedef {import("./audit_probe.js").Report} Report */

const HOTTEST = 2; // nats

/**
 * @param {HTMLElement} place
 * @param {Report} report
 */
export function showReport(place, report) {
  place.replaceChildren(...verdict(report), heatMap(report), checkTable(report));
}

/** @param {Report} report */
function verdict(report) {
  const clean = isClean(report);
  const leaks = report.leaks.flat().filter(Boolean).length;
  const pairs = report.items.length * (report.items.length - 1);
  const onlyEarlier = report.leaks.every((row, changed) => row.every((leak, watched) => !leak || changed < watched));
  const [words, kind, explained] =
    clean === null
      ? ["Nothing can be said", "", "The items’ scores hardly differ, so no leak could be seen. Try other items."]
      : clean
        ? ["No item influences another", "clean", "Whatever changed in the list, the scores of the other items stayed the same."]
        : [
            "Items influence each other",
            "leaks",
            `${leaks} of ${counted(pairs, "pair")} leak.` +
              (leaks && onlyEarlier ? " Every leak is from an item to one below it, as with plain causal attention." : ""),
          ];
  return [element("p", { class: `verdict ${kind}` }, words), element("p", {}, explained)];
}

/** @param {Report} report */
function heatMap(report) {
  const name = (/** @type {number} */ at) => `${at + 1}`;
  return element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": "Heat map" },
    element(
      "table",
      { class: "heat" },
      element("caption", {}, "How far the log-score of the item in the column moved when the item in the row changed"),
      element(
        "thead",
        {},
        element(
          "tr",
          {},
          element("th", { scope: "col" }, element("span", { class: "whole" }, "changed ↓ watched →")),
          ...report.items.map((_, at) => element("th", { scope: "col" }, name(at))),
        ),
      ),
      element(
        "tbody",
        {},
        ...report.items.map((text, changed) =>
          element(
            "tr",
            {},
            element(
              "th",
              { scope: "row", title: text.trim() },
              name(changed),
              element("span", { class: "whole" }, ` ${shortened(text, 30)}`),
            ),
            ...report.effects[changed].map((effect, watched) =>
              watched === changed
                ? element("td", { class: "own", "aria-label": "itself" }, "·")
                : element("td", { "--level": Math.min(1, effect / HOTTEST).toFixed(3) }, small(effect)),
            ),
          ),
        ),
      ),
    ),
  );
}

/** @param {Report} report */
function checkTable(report) {
  const rows = [
    ...report.checks.map((check) => [check.name, small(check.effect), small(check.threshold)]),
    ["The same request again (noise)", small(report.noise), ""],
    ["An item added at the end (rounding)", small(report.rounding), ""],
  ];
  return element(
    "table",
    { class: "checks" },
    element("caption", { class: "unseen" }, "Largest change of a log-score, by what was changed"),
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        ...["What was changed", "Largest change of a log-score", "Allowed"].map((name) =>
          element("th", { scope: "col" }, name),
        ),
      ),
    ),
    element(
      "tbody",
      {},
      ...rows.map(([name, effect, allowed]) =>
        element("tr", {}, element("th", { scope: "row" }, name), element("td", {}, effect), element("td", {}, allowed)),
      ),
    ),
  );
}

/** @param {number} value */
const small = (value) => (value === 0 ? "0" : value < 0.0001 ? value.toExponential(0) : value.toFixed(value < 0.01 ? 4 : 2));
