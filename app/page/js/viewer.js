/** One picture, large, with its parameters. */

import { decoded } from "./developing.js";
import { factsOf, listed } from "./facts.js";
import { describe, subjectOf } from "./models.js";
import { addressOf, copy, drawnWith, fileOf, isSame, nameOf, save, scaleOf } from "./pictures.js";

/** Tells `act` (detail: name of the button, the entry) for what others do. */
export class Viewer extends EventTarget {
  #entries = [];
  #at = 0;
  #address = null;
  #held = null;

  /**
   * @param {HTMLDialogElement} dialog
   * @param {import("./api.js").Api} api
   * @param {(name: string) => object|undefined} modelOf
   */
  constructor(dialog, api, modelOf) {
    super();
    Object.assign(this, { dialog, api, modelOf });
    this.picture = dialog.querySelector("#viewer-picture");
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) return dialog.close();
      const act = event.target.closest("[data-act]")?.dataset.act;
      if (act) this.#act(act);
    });
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") this.#act("previous");
      if (event.key === "ArrowRight") this.#act("next");
    });
    dialog.addEventListener("close", () => this.#release());
    window.addEventListener("resize", () => this.entry && this.#enlarge(this.entry));
  }

  /** The entry that is shown; undefined while there is none. */
  get entry() {
    return this.dialog.open ? this.#entries[this.#at] : undefined;
  }

  /**
   * Show one of the entries.
   *
   * @param {object[]} entries of the history; `file` is the blob of one that is not in it.
   * @param {number} at which of them.
   */
  open(entries, at) {
    this.#entries = [...entries];
    if (!this.dialog.open) this.dialog.showModal();
    this.#show(Math.max(at, 0));
  }

  /**
   * Show the next entry instead of one that is gone.
   *
   * @returns {() => void} brings it back, if its neighbours are still shown.
   */
  remove(entry) {
    const before = this.#entries;
    const after = before.filter((each) => each !== entry);
    this.#entries = after;
    if (after.length) this.#show(this.#at % after.length);
    else this.dialog.close();
    return () => {
      if (this.dialog.open && this.#entries === after) this.open(before, before.indexOf(entry));
    };
  }

  /** Say a text beside the picture. */
  note(text) {
    this.dialog.querySelector("#viewer-note").textContent = text;
  }

  /** Show whether the entry has a star. */
  star() {
    const button = this.#button("star");
    button.setAttribute("aria-pressed", Boolean(this.entry?.starred));
    button.textContent = this.entry?.starred ? "Starred" : "Star";
  }

  /** Show what the button to compare does while an entry is held for it; null for none. */
  hold(held) {
    this.#held = held;
    const button = this.#button("compare");
    const own = isSame(held, this.entry);
    button.setAttribute("aria-pressed", own);
    button.textContent = own ? "Let go" : held ? "Compare with held" : "Compare";
  }

  async #act(act) {
    const { entry } = this;
    if (act === "close") this.dialog.close();
    else if (act === "previous") this.#show(this.#at - 1);
    else if (act === "next") this.#show(this.#at + 1);
    else if (act === "download") await this.#try(() => download(this.api, entry), "Saved.");
    else if (act === "copy") await this.#try(() => copy(fileOf(this.api, entry)), "Copied.");
    else this.dispatchEvent(new CustomEvent("act", { detail: { act, entry } }));
  }

  async #try(act, done) {
    try {
      await act();
      if (done) this.note(done);
    } catch (error) {
      this.note(error.message);
    }
  }

  /** After the last comes the first. */
  async #show(at) {
    this.#at = (at + this.#entries.length) % this.#entries.length;
    const { entry } = this;
    this.note("");
    this.dialog.querySelector("#viewer-name").textContent = subjectOf(entry.settings);
    const inHeading = ["Class", "Prompt"];
    const model = this.modelOf(entry.settings.model);
    const facts = factsOf(entry, model).filter(([name]) => !inHeading.includes(name));
    this.dialog.querySelector("#viewer-facts").replaceChildren(...listed(facts));
    this.#button("previous").hidden = this.#button("next").hidden = this.#entries.length === 1;
    for (const act of ["star", "delete"]) this.#button(act).hidden = Boolean(entry.file);
    this.#button("seed").hidden = entry.settings.seed === undefined;
    this.star();
    this.hold(this.#held);
    this.picture.alt = describe(drawnWith(entry), entry.image, "finished");
    this.#enlarge(entry);
    if (entry.thumbnail) this.picture.src = entry.thumbnail;
    const show = async (address) => {
      await decoded(address);
      if (this.entry !== entry) return;
      this.#release();
      this.#address = address.startsWith("blob:") ? address : null;
      this.picture.src = address;
    };
    await this.#try(() => {
      if (entry.file) return show(URL.createObjectURL(entry.file));
      return this.api.show(addressOf(entry), show);
    }, "");
  }

  /** A whole number of screen pixels for each pixel of the picture. */
  #enlarge({ width, height }) {
    const { borderTopWidth, maxHeight } = getComputedStyle(this.picture);
    const borders = 2 * Number.parseFloat(borderTopWidth);
    const room = [0.55 * innerWidth, Number.parseFloat(maxHeight) - borders];
    this.picture.style.width = `${width * scaleOf([width, height], room) + borders}px`;
  }

  #release() {
    if (this.#address) URL.revokeObjectURL(this.#address);
    this.#address = null;
  }

  #button(act) {
    return this.dialog.querySelector(`[data-act=${act}]`);
  }
}

/** Save the picture of an entry as a file; throws as `Api.request` does. */
export async function download(api, entry) {
  save(await fileOf(api, entry), nameOf(entry));
}
