/** The line: all prints, the newest first. */

import { removeFrom } from "./focus.js";
import { entryOf, isSame, usedOf } from "./pictures.js";
import { Print } from "./print.js";

const LONGEST = 64; // prints on the line; older ones are in the history

/**
 * Tells `act` (detail: name of the button, the print), and `kept` (detail: a job that succeeded)
 * when all its pictures are remembered, or cannot be had.
 */
export class Prints extends EventTarget {
  #prints = new Map(); // id of the entry -> print
  #ofJobs = new Map(); // job -> its prints

  /**
   * @param {HTMLElement} list
   * @param {HTMLElement} empty is shown while there are none.
   * @param {import("./api.js").Api} api
   * @param {(name: string) => object|undefined} modelOf
   * @param {(print: Print) => Promise<void>} remember keeps a picture.
   */
  constructor(list, empty, api, modelOf, remember) {
    super();
    Object.assign(this, { list, empty, api, modelOf, remember });
    list.addEventListener("click", (event) => {
      const button = event.target.closest("[data-act]");
      if (!button) return;
      const print = this.#prints.get(button.closest(".print").dataset.id);
      this.#dispatch("act", { act: button.dataset.act, print });
    });
  }

  /** Prints whose pictures are there, in the order of the line. */
  get finished() {
    return [...this.list.children]
      .map((each) => this.#prints.get(each.dataset.id))
      .filter((each) => each.element.dataset.state === "finished");
  }

  /** The print of an entry; undefined if it does not hang here. */
  of(entry) {
    return this.#prints.get(entry.id);
  }

  /** Hang a print for each picture of a job. */
  add(job) {
    const { model, n } = job.settings;
    const prints = Array.from({ length: n }, (_, image) => {
      return new Print(entryOf(job, image), this.modelOf(model));
    });
    this.#ofJobs.set(job, prints);
    this.#hang(prints);
    this.follow(job);
  }

  /** Hang entries of the history behind the others, by their thumbnails. */
  async restore(entries) {
    const prints = entries
      .filter((each) => each.thumbnail && !this.#prints.has(each.id))
      .map((entry) => new Print(entry, this.modelOf(entry.settings.model)));
    this.#hang(prints, true);
    const shown = prints.map((print) => {
      return print.finish(print.entry.thumbnail).catch((error) => print.lose(error.message));
    });
    await Promise.all(shown);
  }

  /** Show how far a job is, and its pictures at the end. */
  follow(job) {
    const prints = this.#ofJobs.get(job);
    if (!prints) return;
    if (job.status === "refused") prints.forEach((print) => this.remove(print));
    else prints.forEach((print) => print.follow(job));
    if (job.over) this.#ofJobs.delete(job);
    if (job.status === "succeeded") this.#finishAll(job, prints);
  }

  /** Show a preview of a job's picture. */
  preview({ job, image, step, url }) {
    this.#ofJobs.get(job)?.[image]?.preview(step, url);
  }

  /** Show which entry is held for a comparison; null for none. */
  hold(held) {
    for (const print of this.#prints.values()) print.hold(isSame(held, print.entry));
  }

  /** Take all prints of the job of one of them from the line. */
  clear({ job }) {
    for (const print of [...this.#prints.values()]) if (print.job === job) this.remove(print);
  }

  /** Hang a print again that was taken from the line, where it hung. */
  putBack(print) {
    const older = [...this.list.children].find((each) => {
      return this.#prints.get(each.dataset.id).entry.created < print.entry.created;
    });
    this.#prints.set(print.entry.id, print);
    this.list.insertBefore(print.element, older ?? null);
    this.empty.hidden = true;
    print.element.querySelector(".paper").focus();
  }

  /** Take a print from the line. */
  remove(print) {
    removeFrom(this.list, print.element);
    this.#prints.delete(print.entry.id);
    if (print.address) URL.revokeObjectURL(print.address);
    this.empty.hidden = this.list.children.length > 0;
  }

  async #finishAll(job, prints) {
    const finished = prints.map((print) => {
      print.entry.seconds = job.seconds;
      print.entry.used = usedOf(job);
      print.imageId = job.result?.images[print.entry.image].id ?? null;
      return this.#finish(print, `jobs/${job.id}/images/${print.entry.image}`);
    });
    await Promise.all(finished);
    this.#dispatch("kept", job);
  }

  async #finish(print, path) {
    try {
      const address = await this.api.showAtLast(path, (url) => print.finish(url));
      if (address.startsWith("blob:")) print.address = address;
      print.entry.url = path;
    } catch (error) {
      const gone = error.status === 410 || error.status === 404;
      return print.lose(gone ? "The service no longer has this picture." : error.message);
    }
    return this.remember(print);
  }

  #hang(prints, atEnd = false) {
    for (const print of prints) {
      this.#prints.set(print.entry.id, print);
      print.element.classList.toggle("hung", !atEnd);
    }
    const elements = prints.map((print) => print.element);
    if (atEnd) this.list.append(...elements);
    else this.list.prepend(...elements);
    this.empty.hidden = this.list.children.length > 0;
    for (const element of [...this.list.children].slice(LONGEST)) {
      const print = this.#prints.get(element.dataset.id);
      if (!element.classList.contains("developing")) this.remove(print);
    }
  }

  #dispatch(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
