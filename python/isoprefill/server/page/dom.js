// @ts-check
/** Makes elements. Text only ever becomes text nodes, never HTML. */

/**
 * @param {string} tag
 * @param {Record<string, string | number | boolean | null>} [attributes] false and null leave an attribute out; names
 *   that begin with `--` are custom properties.
 * @param {...(Node | string | null)} children
 * @returns {HTMLElement}
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null) continue;
    if (name.startsWith("--")) made.style.setProperty(name, String(value));
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

/**
 * Finds an element of the page.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {{ new (): T }} [kind]
 * @returns {T}
 */
export function byId(id, kind) {
  const found = document.getElementById(id);
  if (!found || (kind && !(found instanceof kind))) throw new Error(`the page has no such element: ${id}`);
  return /** @type {T} */ (found);
}

/**
 * Shows a message in a box, or hides the box.
 * @param {HTMLElement} box
 * @param {string | null} message
 */
export function showMessage(box, message) {
  box.hidden = message === null;
  box.textContent = message ?? "";
}
