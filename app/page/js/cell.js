/** One picture of a contact sheet. */

import { sizeOf } from "./models.js";
import { entryOf, usedOf } from "./pictures.js";

/**
 * A cell of a sheet.
 *
 * `status` is `waiting` (not asked for), `open` (its job has not ended), `finished`, `failed`,
 * `canceled`, `deleted` or `impossible`; `note` says why.
 */
export class Cell {
  /**
   * @param {{settings: object, impossible: string}} plan as `cellOf` gives it.
   * @param {[string|null, string|null]} asked the key and the id of its job.
   * @param {number} index among the cells, in reading order.
   */
  constructor({ settings, impossible }, [key, id], index) {
    Object.assign(this, { settings, impossible, key, id, index });
    this.job = null;
    this.entry = null; // as in the history, once it is finished
    this.status = impossible ? "impossible" : key ? "open" : "waiting";
    this.note = impossible;
  }
}

/** The entry of a cell that a job has drawn: it says which settings were used otherwise. */
export function drawnBy(job, model) {
  const entry = { ...entryOf(job, 0), sheet: job.sheet, seconds: job.seconds };
  entry.used = usedOf(job);
  entry.url = `jobs/${job.id}/images/0`;
  [entry.width, entry.height] = sizeOf(model, entry);
  return entry;
}
