// @ts-check
/** Asks the server's public API. The key stays in this module's memory. */

let key = "";

/** What went wrong, in words for people. */
export class ApiProblem extends Error {
  /**
   * @param {string} message
   * @param {string} code of the API, or "unreachable"
   * @param {string | null} [param] the field that is wrong
   */
  constructor(message, code, param = null) {
    super(message);
    this.code = code;
    this.param = param;
  }
}

/** @param {string} given */
export function useKey(given) {
  key = given.trim();
}

/**
 * Posts a JSON body.
 * @param {string} path relative to the page, such as `v1/score`
 * @param {object} body
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export const post = (path, body, signal) =>
  ask(path, { method: "POST", body: JSON.stringify(body), signal, headers: { "content-type": "application/json" } });

/**
 * @param {string} path
 * @returns {Promise<any>}
 */
export const get = (path) => ask(path, {});

/** Whether the model is loaded and warm. */
export async function isReady() {
  const response = await reached("ready", {});
  return response.ok;
}

/**
 * @param {string} path
 * @param {RequestInit} options
 */
async function ask(path, options) {
  const headers = new Headers(options.headers);
  if (key) headers.set("authorization", `Bearer ${key}`);
  const response = await reached(path, { ...options, headers });
  const answer = await response.json().catch(() => null);
  if (response.ok && answer !== null) return answer;
  const error = answer?.error ?? {};
  throw new ApiProblem(
    error.message ?? `The server answered ${response.status} without saying why.`,
    error.code ?? String(response.status),
    error.param ?? null,
  );
}

/**
 * @param {string} path
 * @param {RequestInit} options
 */
async function reached(path, options) {
  try {
    return await fetch(new URL(path, document.baseURI), {
      ...options,
      cache: "no-store",
      credentials: "same-origin",
      redirect: "error",
      referrerPolicy: "no-referrer",
    });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiProblem("The server does not answer. Is it still running?", "unreachable");
  }
}
