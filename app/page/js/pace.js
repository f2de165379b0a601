/** How fast a contact sheet goes, by the evaluations of the network that are done. */

import { costOf } from "./models.js";

const LEAST = 0.02; // of all evaluations, before anything can be said

/** The pace since the sheet began to be drawn. */
export class Pace {
  #began = null;

  /** @param {(name: string) => object|undefined} modelOf */
  constructor(modelOf) {
    this.modelOf = modelOf;
  }

  /** The cells begin to be drawn now, or go on. */
  begin(cells) {
    this.#began = { at: performance.now(), part: this.#part(cells) };
  }

  /** Seconds until all cells are done at this pace; null while that is not known. */
  secondsLeft(cells) {
    if (!this.#began) return null;
    const part = this.#part(cells);
    const done = part - this.#began.part;
    const seconds = (performance.now() - this.#began.at) / 1000;
    return done > LEAST ? (seconds / done) * (1 - part) : null;
  }

  /** The part that is done, 0 to 1. */
  #part(cells) {
    let [done, all] = [0, 0];
    for (const { settings, status, job } of cells) {
      const model = this.modelOf(settings.model);
      const work = model ? costOf(model, settings).evaluations : 1;
      all += work;
      if (status === "finished") done += work;
      else if (status === "open") done += work * (job?.progress ?? 0);
    }
    return all ? done / all : 0;
  }
}
