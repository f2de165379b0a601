/** The view of the history: search, stars, export and import. */

import { element } from "./controls.js";
import { persist } from "./history.js";
import { describe, subjectOf } from "./models.js";
import { save, settingsOf } from "./pictures.js";

const PAGE = 60; // entries, to begin with and for each "Show more"
const PAUSE = 200; // ms after the last letter of a search

/** Tells `open` (detail: the entries that are shown, and which of them) on a click. */
export class Album extends EventTarget {
  #entries = [];
  #next = null;
  #search = 0; // counts them, so that a slow one does not overtake
  #timer;

  /**
   * @param {HTMLElement} root the view.
   * @param {import("./history.js").History} history
   */
  constructor(root, history) {
    super();
    this.root = root;
    this.history = history;
    this.at = (name) => root.querySelector(`#${name}`);
    this.at("history-words").addEventListener("input", () => {
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.show(), PAUSE);
    });
    this.at("history-starred").addEventListener("change", () => this.show());
    this.at("history-more").addEventListener("click", () => this.#page());
    this.at("history-export").addEventListener("click", () => this.#export());
    this.at("history-import").addEventListener("click", () => this.at("history-file").click());
    this.at("history-file").addEventListener("change", (event) => this.#import(event.target));
    this.at("history-persist").addEventListener("click", () => this.#persist());
    this.at("album").addEventListener("click", (event) => {
      const item = event.target.closest("li");
      if (!item) return;
      const detail = { entries: this.#entries, at: [...item.parentElement.children].indexOf(item) };
      this.dispatchEvent(new CustomEvent("open", { detail }));
    });
  }

  /** Show the newest entries that match what is searched for. */
  async show() {
    await this.#page(true);
  }

  /** Show what changed, if the view is shown, with as many pages as before. */
  async refresh() {
    if (!this.root.hidden) await this.#page(true, this.#entries.length);
  }

  async #page(fresh = false, least = 0) {
    const search = ++this.#search;
    const starred = this.at("history-starred").checked || undefined;
    const wanted = { words: this.at("history-words").value, starred };
    const pages = Math.max(1, Math.ceil(least / PAGE));
    const range = { after: fresh ? null : this.#next, limit: pages * PAGE };
    const { entries, next } = await this.history.search(wanted, range);
    if (search !== this.#search) return;
    const focused = this.#focused;
    this.#next = next;
    this.#entries = fresh ? entries : [...this.#entries, ...entries];
    const items = entries.map(itemOf);
    if (fresh) this.at("album").replaceChildren(...items);
    else this.at("album").append(...items);
    const again = this.#entries.findIndex((entry) => entry.id === focused?.id);
    if (again >= 0) this.at("album").children[again].querySelector("button").focus();
    this.at("history-more").hidden = next === null;
    const none = wanted.words || starred ? "Nothing matches." : "Nothing was drawn yet.";
    this.#note(this.history.reason ?? (this.#entries.length ? "" : none));
  }

  /** The entry whose button has the focus. */
  get #focused() {
    const item = document.activeElement.closest("#album > li");
    return item && this.#entries[[...item.parentElement.children].indexOf(item)];
  }

  async #export() {
    save(new Blob([await this.history.export()], { type: "application/json" }), "darkroom.json");
    this.#note("Exported: settings, thumbnails and addresses of all pictures.");
  }

  async #import(input) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    try {
      const { added, skipped } = await this.history.import(await file.text());
      await this.show();
      this.#note(`Imported ${added}; ${skipped} were here already, or are no entries.`);
    } catch (error) {
      this.#note(error.message);
    }
  }

  async #persist() {
    this.#note(
      (await persist())
        ? "The browser will not clear this history by itself."
        : "The browser makes no promise. Export it now and then.",
    );
  }

  #note(text) {
    this.at("history-note").textContent = text;
  }
}

function itemOf(entry) {
  const image = element("img", { alt: describe(entry.settings, entry.image, "finished") });
  image.loading = "lazy";
  if (entry.thumbnail) image.src = entry.thumbnail;
  const star = entry.starred ? "★ " : "";
  const words = `${star}${subjectOf(entry.settings)} · ${settingsOf(entry).seed ?? "no seed"}`;
  const button = element("button", { type: "button" }, image, element("span", {}, words));
  return element("li", {}, button);
}
