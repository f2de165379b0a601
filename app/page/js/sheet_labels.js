/** What a contact sheet says of its pictures: what was really used, and what they share. */

import { wordsOf } from "./axes.js";

const SHARED = {
  model: "",
  class: "class",
  prompt: "",
  negative_prompt: "without",
  steps: "steps",
  sampler: "",
  spacing: "spacing",
  guidance_scale: "guidance",
  eta: "eta",
  seed: "seed",
};

/**
 * What was really used along a column or a row, as far as its finished cells agree; otherwise what
 * was asked for.
 *
 * @param {import("./sheet.js").Sheet} sheet
 * @param {"across"|"down"} way the axis.
 * @param {number} at which of its values.
 * @returns {{words: string, asked: string}} `asked` is "" if it is what was asked for.
 */
export function labelOf(sheet, way, at) {
  const axis = sheet[way];
  if (!axis) return { words: "", asked: "" };
  const model = modelOf(sheet);
  const asked = wordsOf(axis.name, axis.values[at], model);
  const line = sheet.finished.filter((cell) => sheet.placeOf(cell)[way] === at);
  const [words = asked, ...others] = new Set(line.map((cell) => usedBy(cell, axis, at, model)));
  return others.length || words === asked ? { words: asked, asked: "" } : { words, asked };
}

/** What a finished cell really used, where the labels of its row and column say otherwise. */
export function differenceOf(sheet, cell) {
  if (!cell.entry) return "";
  const model = modelOf(sheet);
  const told = Object.entries(sheet.placeOf(cell)).map(([way, at]) => {
    const axis = sheet[way];
    const words = axis && usedBy(cell, axis, at, model);
    return axis && labelOf(sheet, way, at).words !== words ? `${axis.label} ${words}` : "";
  });
  return told.filter(Boolean).join(", ");
}

/** The settings that all pictures share, in words; as they were used, once some are finished. */
export function captionOf(sheet) {
  const { finished, possible, across, down } = sheet;
  const cells = finished.length ? finished : possible;
  const settings = cells.map((cell) => ({ ...cell.settings, ...cell.entry?.used }));
  const varies = [across?.name, down?.name];
  const same = (name) => new Set(settings.map((each) => `${each[name]}`)).size === 1;
  const [first = {}] = settings;
  const model = modelOf(sheet);
  return Object.entries(SHARED)
    .filter(([name]) => !varies.includes(name) && same(name))
    .filter(([name]) => first[name] !== undefined && first[name] !== "")
    .map(([name, words]) => `${words} ${wordsOf(name, first[name], model)}`.trim())
    .join(" · ");
}

function usedBy({ entry }, { name, values }, at, model) {
  return wordsOf(name, name in (entry.used ?? {}) ? entry.used[name] : values[at], model);
}

function modelOf({ cells, modelOf: byName }) {
  return byName(cells[0]?.settings.model);
}
