/** The plan of a contact sheet: its cells, what is wrong with it, and what it costs. */

import { WrongValue } from "./fields.js";
import { costOf, inSeconds, samplerOf } from "./models.js";
import { MOST, valuesOf } from "./values.js";

/** Jobs of a sheet that are open at once; other requests of this client find room beside them. */
export const OPEN = 8;

/**
 * What a sheet would draw.
 *
 * @param {object} model of `GET /models`.
 * @param {object} settings that all pictures share.
 * @param {{across: object|null, down: object|null}} ways `{axis, typed}`, or null where nothing
 *   varies; `typed` is as for `valuesOf`.
 * @returns {{wrong: Map<string, string>, plan: object|undefined}} what is wrong, by the name of the
 *   field that it stands beside; or the axes and cells, in reading order, for `Sheet.start`.
 */
export function planOf(model, settings, { across, down }) {
  const wrong = new Map();
  const axes = { across: axisOf("across", across, wrong), down: axisOf("down", down, wrong) };
  if (!across && !down) wrong.set("across", "Choose what varies.");
  else if (across?.axis.name === down?.axis.name) {
    wrong.set("down", `Columns and rows both vary ${across.axis.label}. Choose another.`);
  }
  const columns = axes.across?.values ?? [null];
  const rows = axes.down?.values ?? [null];
  const count = columns.length * rows.length;
  if (count > MOST) {
    const longer = columns.length > rows.length ? "across-values" : "down-values";
    const told = `${columns.length} × ${rows.length} are ${count} pictures`;
    if (!wrong.size) wrong.set(longer, `${told}; a sheet has at most ${MOST}.`);
  }
  if (wrong.size) return { wrong };
  const cells = rows.flatMap((row) =>
    columns.map((column) => {
      const varied = { ...(across && { [across.axis.name]: column }) };
      return cellOf(model, settings, { ...varied, ...(down && { [down.axis.name]: row }) });
    }),
  );
  return { wrong, plan: { ...axes, cells } };
}

/**
 * For how many values an axis has room on a sheet, at least one.
 *
 * @param {object|null} beside the other axis, as for `planOf`.
 */
export function roomBeside(beside) {
  const values = axisOf("", beside, new Map())?.values;
  return Math.max(1, Math.floor(MOST / Math.max(1, values?.length ?? 1)));
}

/** How many pictures and evaluations the cells are, and about how long they take. */
export function costInWords(model, cells) {
  const possible = cells.filter((each) => !each.impossible);
  const beside = Math.min(OPEN, possible.length); // they are drawn together
  const costs = possible.map(({ settings }) => costOf(model, { ...settings, n: beside }));
  const sum = (name) => costs.reduce((all, cost) => all + cost[name], 0) / Math.max(beside, 1);
  const without = cells.length - possible.length;
  const pictures = possible.length === 1 ? "1 picture" : `${possible.length} pictures`;
  const words = [without ? `${pictures} (${without} cannot be drawn)` : pictures];
  if (Number.isFinite(sum("evaluations"))) words.push(`${sum("evaluations")} evaluations`);
  const known = costs.every((cost) => Number.isFinite(cost.seconds));
  if (known) words.push(`about ${inSeconds(sum("seconds"))}`);
  return words.join(", ");
}

/**
 * The settings of one picture of a sheet.
 *
 * What the sampler does not take is left out, unless it varies: then the picture is impossible.
 *
 * @param {object} model of `GET /models`.
 * @param {object} settings that all pictures share.
 * @param {object} varied settings of this one, by name.
 * @returns {{settings: object, impossible: string}} why there is no such picture, or "".
 */
export function cellOf(model, settings, varied) {
  const cell = { ...settings, ...varied, n: 1 };
  const sampler = samplerOf(model, cell);
  const taken = { eta: sampler.eta, spacing: sampler.spacings.length > 1 };
  let impossible = "";
  for (const [name, takes] of Object.entries(taken)) {
    if (takes) continue;
    const none = name === "eta" ? 0 : sampler.spacings[0];
    if (name in varied && varied[name] !== none) {
      impossible = `${sampler.title} has no ${name} ${varied[name]}`;
    }
    delete cell[name];
  }
  return { settings: cell, impossible };
}

function axisOf(way, chosen, wrong) {
  if (!chosen) return null;
  const { axis, typed } = chosen;
  try {
    return { name: axis.name, label: axis.label, values: valuesOf(axis, typed) };
  } catch (error) {
    if (!(error instanceof WrongValue)) throw error;
    wrong.set(`${way}-values`, error.message);
    return null;
  }
}
