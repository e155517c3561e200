// @ts-check
/** Draws a layout: rows from top to bottom, columns from left to right, a colour where a row sees a column. */

import { colour, hueOf } from "./colours.js";
import { isNeighbour, segmentAt } from "./mask_layout.js";

/** @typedef {import("./mask_layout.js").Layout} Layout */

const FINE = 14; // pixels of a tile below which its outline would hide the colours
const SPACED = 7; // pixels of a cell from which there is a gap between cells

/**
 * @param {HTMLCanvasElement} canvas
 * @param {Layout} layout
 * @param {boolean} withTiles
 */
export function drawMask(canvas, layout, withTiles) {
  const pixels = sized(canvas);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const cell = pixels / layout.num_tokens;
  context.clearRect(0, 0, pixels, pixels);
  context.fillStyle = colour("--unseen-hue");
  context.fillRect(0, 0, pixels, pixels);
  if (withTiles) drawSkipped(context, layout, cell, pixels);
  const step = Math.max(1, layout.num_tokens / pixels); // rows that share a row of pixels: one of them is drawn
  for (let at = 0; at < layout.num_tokens; at += step) drawRow(context, layout, Math.floor(at), at, cell, step);
  if (withTiles) drawTiles(context, layout, cell);
}

/**
 * Draws where row and column cross.
 * @param {HTMLCanvasElement} canvas
 * @param {Layout} layout
 * @param {number} row
 * @param {number} column
 */
export function drawCross(canvas, layout, row, column) {
  const pixels = sized(canvas);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const cell = pixels / layout.num_tokens;
  const width = Math.max(cell, 2);
  context.clearRect(0, 0, pixels, pixels);
  context.globalAlpha = 0.16;
  context.fillStyle = colour("--ink");
  context.fillRect(0, row * cell, pixels, width);
  context.fillRect(column * cell, 0, width, pixels);
  context.globalAlpha = 1;
  context.strokeStyle = colour("--ink");
  context.lineWidth = Math.max(2, pixels / 300);
  context.strokeRect(column * cell, row * cell, width, width);
}

/** @param {HTMLCanvasElement} canvas */
export function clear(canvas) {
  canvas.getContext("2d")?.clearRect(0, 0, canvas.width, canvas.height);
}

/**
 * Gives a canvas the pixels of the screen that it covers.
 * @param {HTMLCanvasElement} canvas
 */
function sized(canvas) {
  const pixels = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  if (canvas.width !== pixels) canvas.width = canvas.height = pixels;
  return pixels;
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Layout} layout
 * @param {number} row
 * @param {number} at
 * @param {number} cell
 * @param {number} step
 */
function drawRow(context, layout, row, at, cell, step) {
  const own = layout.segments[segmentAt(layout, row)];
  const gap = cell >= SPACED ? Math.max(1, cell / 12) : 0;
  const [prefixBegin, prefixEnd, ownBegin, ownEnd] = layout.sees[row];
  for (const [begin, end] of [[prefixBegin, prefixEnd], [ownBegin, ownEnd]]) {
    for (let column = begin; column < end; ) {
      const segment = layout.segments[segmentAt(layout, column)];
      const stop = Math.min(end, segment.end);
      context.fillStyle = paint(isNeighbour(own, segment) ? "--leak-hue" : hueOf(segment));
      const height = Math.max(cell * step, 1) - gap;
      if (gap) for (; column < stop; column++) context.fillRect(column * cell, at * cell, cell - gap, height);
      else context.fillRect(column * cell, at * cell, (stop - column) * cell, height);
      column = stop;
    }
  }
}

/** @type {Map<string, string>} */
const known = new Map();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => known.clear());

/**
 * A colour, looked up once.
 * @param {string} name
 */
function paint(name) {
  if (!known.has(name)) known.set(name, colour(name));
  return /** @type {string} */ (known.get(name));
}

/**
 * Hatches what causal attention would compute; the tiles that are computed are cleared again.
 * @param {CanvasRenderingContext2D} context
 * @param {Layout} layout
 * @param {number} cell
 * @param {number} pixels
 */
function drawSkipped(context, layout, cell, pixels) {
  context.save();
  context.beginPath();
  context.moveTo(0, 0);
  context.lineTo(pixels, pixels);
  context.lineTo(0, pixels);
  context.clip();
  context.strokeStyle = colour("--muted");
  context.globalAlpha = 0.7;
  context.lineWidth = devicePixelRatio / 2;
  const apart = 5 * devicePixelRatio;
  context.beginPath();
  for (let from = 0; from < 2 * pixels; from += apart) {
    context.moveTo(from, 0);
    context.lineTo(0, from);
  }
  context.stroke();
  context.restore();
  context.fillStyle = colour("--unseen-hue");
  for (const [rowBegin, rowEnd, columnBegin, columnEnd] of layout.tiles) {
    context.fillRect(columnBegin * cell, rowBegin * cell, (columnEnd - columnBegin) * cell, (rowEnd - rowBegin) * cell);
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Layout} layout
 * @param {number} cell
 */
function drawTiles(context, layout, cell) {
  context.strokeStyle = colour("--ink");
  context.lineWidth = devicePixelRatio;
  context.globalAlpha = layout.tile * cell < FINE * devicePixelRatio ? 0.25 : 0.7;
  for (const [rowBegin, rowEnd, columnBegin, columnEnd] of layout.tiles) {
    const [width, height] = [(columnEnd - columnBegin) * cell, (rowEnd - rowBegin) * cell];
    context.strokeRect(columnBegin * cell + 0.5, rowBegin * cell + 0.5, Math.max(1, width - 1), Math.max(1, height - 1));
  }
  context.globalAlpha = 1;
}
