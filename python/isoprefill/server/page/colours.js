// @ts-check
/** The colours of segments, as the style sheet has them for light and dark. */

export const ITEM_HUES = 6;

/** @param {string} name of a custom property */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** @param {number} index of an item */
export const itemHue = (index) => `--item-hue-${index % ITEM_HUES}`;

/**
 * @param {import("./mask_layout.js").Segment} segment
 * @returns {string} the name of its custom property
 */
export const hueOf = (segment) =>
  segment.kind === "query" ? "--query-hue" : segment.index === null ? "--delimiter-hue" : itemHue(segment.index);
