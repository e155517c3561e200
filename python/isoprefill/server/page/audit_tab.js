// @ts-check
/** The tab that audits: runs the probe and shows its report. */

import { MOST_ITEMS, audit } from "./audit_probe.js";
import { ApiProblem } from "./client.js";
import { byId, showMessage } from "./dom.js";
import { showReport } from "./heat_map.js";
import { counted } from "./numbers.js";
import { readForm, whatIsMissing } from "./request_form.js";
import { advised } from "./scoring.js";

const button = byId("audit-button", HTMLButtonElement);
const bar = byId("audit-progress", HTMLProgressElement);
const errorBox = byId("audit-error");
const status = byId("audit-status");
/** @type {AbortController | null} */
let running = null;

export function startAuditTab() {
  const server = new URL(".", document.baseURI).href.replace(/\/$/, "");
  byId("audit-command").textContent = `isoprefill audit --server-url ${server}`;
  button.addEventListener("click", () => (running ? running.abort() : run()));
}

async function run() {
  const filled = readForm();
  if (filled.method === "rerank") filled.method = "likelihood";
  showMessage(errorBox, null);
  if (filled.items.length < 2) {
    showMessage(errorBox, "The Score tab must hold at least 2 items.");
    return;
  }
  const missing = whatIsMissing(filled);
  if (missing) {
    showMessage(errorBox, `On the Score tab: ${missing.message}`);
    return;
  }
  const controller = (running = new AbortController());
  const isolation = byId("audit-causal", HTMLInputElement).checked ? "causal" : "isolated";
  button.textContent = "Stop";
  status.textContent = "Running…";
  bar.value = 0;
  bar.hidden = false;
  byId("audit-report").replaceChildren();
  try {
    const report = await audit(filled, isolation, (done, of) => (bar.value = done / of), controller.signal);
    showReport(byId("audit-report"), report);
    status.textContent =
      `${counted(report.requests, "request")} about ${counted(report.items.length, "item")}` +
      `${filled.items.length > MOST_ITEMS ? ` (the first of ${filled.items.length})` : ""}.`;
  } catch (error) {
    status.textContent = controller.signal.aborted ? "Stopped." : "";
    if (!controller.signal.aborted) {
      if (!(error instanceof ApiProblem)) throw error;
      showMessage(errorBox, advised(error));
    }
  } finally {
    running = null;
    bar.hidden = true;
    button.textContent = "Run the audit";
  }
}
