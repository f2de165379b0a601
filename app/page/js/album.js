/** The view of the history: search, stars, export and import. */

import { element } from "./controls.js";
import { removeFrom } from "./focus.js";
import { PAGE, persist } from "./history.js";
import { describe, subjectOf } from "./models.js";
import { drawnWith, save, settingsOf } from "./pictures.js";

const PAUSE = 200; // ms after the last letter of a search, and between two looks at what changed

/** Tells `open` (detail: the entries that are shown, and which of them) on a click. */
export class Album extends EventTarget {
  #entries = [];
  #items = new Map(); // id of an entry that is shown -> its item
  #limit = PAGE; // entries that are shown, if there are as many
  #next = null;
  #search = 0; // counts them, so that a slow one does not overtake
  #timer;
  #refreshing = null;

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
    this.at("history-more").addEventListener("click", () => this.#more());
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
    this.#limit = PAGE;
    await this.#look();
  }

  /**
   * Show what changed, if the view is shown: soon, and once for all pictures that end together.
   * Items of entries that stay keep their place.
   */
  refresh() {
    this.#refreshing ??= setTimeout(() => {
      this.#refreshing = null;
      if (!this.root.hidden) this.#look();
    }, PAUSE);
  }

  async #more() {
    const { length } = this.#entries;
    this.#limit += PAGE;
    await this.#look(this.#entries, this.#next);
    if (this.at("history-more").hidden) this.at("album").children[length]?.firstChild.focus();
  }

  /** Show these entries, and those that follow them. */
  async #look(shown = [], after = null) {
    const search = ++this.#search;
    const starred = this.at("history-starred").checked || undefined;
    const wanted = { words: this.at("history-words").value, starred };
    const limit = this.#limit - shown.length;
    const { entries, next } = await this.history.search(wanted, { after, limit });
    if (search !== this.#search) return;
    this.#next = next;
    this.#entries = [...shown, ...entries];
    this.#hang();
    this.at("history-more").hidden = next === null;
    const none = wanted.words || starred ? "Nothing matches." : "Nothing was drawn yet.";
    this.#note(this.history.reason ?? (this.#entries.length ? "" : none));
  }

  /** Make the list that of the entries; items of entries that stay are not moved. */
  #hang() {
    const list = this.at("album");
    const before = this.#items;
    this.#items = new Map(
      this.#entries.map((entry) => [entry.id, before.get(entry.id) ?? itemOf(entry)]),
    );
    for (const entry of this.#entries) name(this.#items.get(entry.id), entry);
    for (const [id, item] of before) if (!this.#items.has(id)) removeFrom(list, item);
    let next = list.firstElementChild;
    for (const item of this.#items.values()) {
      if (item === next) next = next.nextElementSibling;
      else list.insertBefore(item, next);
    }
  }

  async #export() {
    save(await this.history.export(), "darkroom.json");
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
        ? "The browser agreed: it will not clear this history by itself."
        : "The browser declined, and may clear this history. Export it now and then.",
    );
  }

  #note(text) {
    this.at("history-note").textContent = text;
  }
}

function itemOf(entry) {
  const image = element("img", { alt: describe(drawnWith(entry), entry.image, "finished") });
  image.loading = "lazy";
  if (entry.thumbnail) image.src = entry.thumbnail;
  return element("li", {}, element("button", { type: "button" }, image, element("span")));
}

function name(item, entry) {
  const star = entry.starred ? "★ " : "";
  const words = `${star}${subjectOf(entry.settings)} · ${settingsOf(entry).seed ?? "no seed"}`;
  const place = item.querySelector("span");
  if (place.textContent !== words) place.textContent = words;
}
