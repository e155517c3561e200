// @ts-check
/** Writes numbers for people. */

const WHOLE = new Intl.NumberFormat("en-US");

/** @param {number} value */
export const whole = (value) => WHOLE.format(value);

/**
 * A score with four significant digits, as `isoprefill score` prints it.
 * @param {number | null} value
 */
export function score(value) {
  if (value === null || Number.isNaN(value)) return "none";
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e-4 && size < 1e4 ? String(Number(value.toPrecision(4))) : value.toExponential(2);
}

/** @param {number} value from 0 to 1 */
export const percent = (value) => `${(100 * value).toFixed(value < 0.0995 ? 1 : 0)}%`;

/** @param {number} milliseconds */
export const time = (milliseconds) =>
  milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;

/**
 * @param {number} number
 * @param {string} one
 * @param {string} [many]
 */
export const counted = (number, one, many = `${one}s`) => `${whole(number)} ${number === 1 ? one : many}`;

/**
 * @param {string} text
 * @param {number} [most] characters
 */
export function shortened(text, most = 48) {
  const characters = [...text.trim()];
  return characters.length <= most ? text.trim() : `${characters.slice(0, most - 1).join("").trimEnd()}…`;
}
