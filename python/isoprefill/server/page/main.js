// @ts-check
/** Starts the page: which model is served, whether it is ready, and whether a key is needed. */

import { startAuditTab } from "./audit_tab.js";
import { ApiProblem, get, isReady, useKey } from "./client.js";
import { byId, element } from "./dom.js";
import { whole } from "./numbers.js";
import { preview, startScoreTab } from "./score_tab.js";
import { startTabs } from "./tabs.js";

const ASK_AGAIN_MS = 2000;
const served = byId("served");
const keyForm = byId("key-form", HTMLFormElement);
const key = byId("key", HTMLInputElement);

startTabs(() => {});
startScoreTab();
startAuditTab();
keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(key.value);
  connect();
});
connect();

async function connect() {
  try {
    const { data } = await get("v1/models");
    keyForm.hidden = true;
    byId("model").replaceChildren(
      ...data.map((/** @type {any} */ model) => element("option", { value: model.id }, model.id)),
    );
    if (!(await isReady())) {
      served.textContent = `${data[0].id} is being loaded…`;
      setTimeout(connect, ASK_AGAIN_MS);
      return;
    }
    served.textContent = `${data[0].id} · ${whole(data[0].max_model_len)} positions`;
    await preview();
  } catch (error) {
    if (!(error instanceof ApiProblem)) throw error;
    if (error.code === "invalid_api_key") askForKey();
    else served.textContent = error.message;
  }
}

function askForKey() {
  const wrong = !keyForm.hidden;
  keyForm.hidden = false;
  byId("document").hidden = true; // a link sends no key
  key.toggleAttribute("aria-invalid", false);
  if (wrong) key.setAttribute("aria-invalid", "true");
  served.textContent = wrong ? "The server refuses this key." : "";
  key.value = "";
  key.focus();
}
