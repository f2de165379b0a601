/** The table of a contact sheet: labels, and a frame for each cell. */

import { element } from "./controls.js";
import { Developing, decoded } from "./developing.js";
import { describe, sizeOf } from "./models.js";
import { addressOf } from "./pictures.js";
import { differenceOf, labelOf } from "./sheet_labels.js";

const STATES = {
  waiting: "",
  open: "",
  finished: "",
  failed: "Failed",
  canceled: "Cancelled",
  deleted: "Deleted",
  impossible: "None",
};
const LOST = new Set(["failed", "canceled", "deleted"]);
const MOST_PIXELS = 16e6; // of whole pictures; beyond them, small copies are shown
const SMALL = 96; // pixels; smaller pictures are enlarged by whole numbers
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Tells `open` (detail: a cell) on a click on its picture. */
export class SheetTable extends EventTarget {
  #frames = []; // by the index of the cell
  #heads = { across: [], down: [] };

  /**
   * @param {HTMLElement} box in which the table scrolls.
   * @param {import("./sheet.js").Sheet} sheet
   * @param {import("./api.js").Api} api
   * @param {(print: {entry: object, image: HTMLImageElement, imageId: string|null}) =>
   *   Promise<void>} remember keeps a picture, and gives its entry a thumbnail.
   */
  constructor(box, sheet, api, remember) {
    super();
    Object.assign(this, { box, sheet, api, remember });
    box.addEventListener("click", ({ target }) => {
      const frame = target.closest(".cell");
      const at = this.#frames.findIndex(({ button }) => button === frame);
      if (at < 0) return;
      this.dispatchEvent(new CustomEvent("open", { detail: sheet.cells[at] }));
    });
    box.addEventListener("keydown", (event) => this.#walk(event));
    new ResizeObserver(() => this.#scroll()).observe(box);
    sheet.addEventListener("new", () => this.#build());
    sheet.addEventListener("cell", ({ detail: cell }) => this.#update(cell));
    sheet.addEventListener("preview", ({ detail: { cell, step, url } }) => {
      this.#frames[cell.index].developing.show(step, url);
    });
  }

  #build() {
    const { sheet } = this;
    const { cells, columns } = sheet;
    this.#frames = cells.map((cell) => new Frame());
    const heads = (way, scope) =>
      (sheet[way]?.values ?? [""]).map(() => element("th", { scope }, ""));
    this.#heads = { across: heads("across", "col"), down: heads("down", "row") };
    const rows = this.#heads.down.map((head, row) => {
      const frames = this.#frames.slice(row * columns, (row + 1) * columns);
      return element("tr", {}, head, ...frames.map((frame) => element("td", {}, ...frame.parts)));
    });
    const table = element(
      "table",
      { class: "contact" },
      element("thead", {}, element("tr", {}, element("td"), ...this.#heads.across)),
      element("tbody", {}, ...rows),
    );
    const { settings } = cells[0];
    const [width, height] = sizeOf(sheet.modelOf(settings.model), { settings });
    table.style.setProperty("--columns", columns);
    table.style.setProperty("--rows", rows.length);
    table.style.setProperty("--letters", this.#letters());
    table.style.setProperty("--ratio", `${width} / ${height}`);
    table.style.setProperty("--whole", width < SMALL ? `${width}px` : "1px");
    table.classList.toggle("enlarged", width < SMALL);
    for (const way of ["across", "down"]) this.#heads[way].forEach((_, at) => this.#label(way, at));
    this.box.replaceChildren(table);
    this.#scroll();
    for (const cell of cells) this.#update(cell);
  }

  /** Characters of the longest label of a row. */
  #letters() {
    const labels = this.#heads.down.map((_, at) => labelOf(this.sheet, "down", at).words);
    return Math.max(...labels.map((each) => each.length));
  }

  /** Let the box scroll where the table is wider; labels of columns stay in sight elsewhere. */
  #scroll() {
    const { box } = this;
    const [table] = box.children;
    if (table) box.classList.toggle("scrolls", table.offsetWidth > box.clientWidth);
  }

  #update(cell) {
    const frame = this.#frames[cell.index];
    frame.update(cell);
    if (cell.status !== "finished" || frame.entry === cell.entry) return;
    frame.entry = cell.entry;
    this.#finish(frame, cell);
    const { across, down } = this.sheet.placeOf(cell);
    this.#label("across", across);
    this.#label("down", down);
    for (const each of this.sheet.finished) {
      const place = this.sheet.placeOf(each);
      if (place.across !== across && place.down !== down) continue;
      this.#frames[each.index].note(differenceOf(this.sheet, each));
    }
  }

  async #finish(frame, cell) {
    const { entry } = cell;
    const isShown = () => frame.entry === entry; // not deleted meanwhile
    const show = async (url) => {
      await decoded(url);
      if (isShown()) await frame.developing.finish(url);
    };
    let address = "";
    try {
      if (entry.thumbnail) return await show(entry.thumbnail);
      address = await this.api.showAtLast(addressOf(entry), show);
      if (!isShown()) return;
      const imageId = cell.job?.result?.images[0].id ?? null;
      await this.remember({ entry, image: frame.image, imageId });
      if (!this.#few(entry)) frame.image.src = entry.thumbnail;
    } catch (error) {
      const gone = error.status === 404 || error.status === 410;
      const words = gone ? "The service no longer has this picture." : error.message;
      if (isShown()) this.sheet.lose(cell, "failed", words);
    } finally {
      if (address.startsWith("blob:")) URL.revokeObjectURL(address);
    }
  }

  /** Whether pictures of this size, one for each frame, take little memory. */
  #few({ width, height }) {
    return this.#frames.length * width * height <= MOST_PIXELS;
  }

  /** Show what a column or a row really is. */
  #label(way, at) {
    const axis = this.sheet[way];
    if (!axis) return;
    const { words, asked } = labelOf(this.sheet, way, at);
    const head = this.#heads[way][at];
    if (head.dataset.words === words) return; // the whole table would be laid out again
    head.dataset.words = words;
    head.replaceChildren(
      element("small", {}, `${axis.label} `),
      element("span", {}, words),
      ...(asked ? [element("small", {}, ` (asked for ${asked})`)] : []),
    );
  }

  /** Arrows go from frame to frame. */
  #walk(event) {
    const at = this.#frames.findIndex((frame) => frame.button === event.target);
    const way = ARROWS[event.key];
    if (at < 0 || !way) return;
    event.preventDefault();
    const { columns, cells } = this.sheet;
    let { across: column, down: row } = this.sheet.placeOf(cells[at]);
    for (;;) {
      [column, row] = [column + way[0], row + way[1]];
      if (column < 0 || column >= columns) return;
      const next = this.#frames[row * columns + column];
      if (!next) return;
      if (!next.button.disabled) return next.button.focus();
    }
  }
}

/** One frame of the film. */
class Frame {
  entry = null; // whose picture it shows
  #key; // of the job that it shows

  constructor() {
    this.image = element("img", { alt: "", draggable: "false", hidden: true });
    this.words = element("span", { class: "words" });
    const bath = element("span", { class: "bath", "aria-hidden": "true" });
    this.button = element("button", { type: "button", class: "cell", disabled: true });
    this.button.append(this.image, bath, this.words);
    this.used = element("span", { class: "used" });
    this.parts = [this.button, this.used];
    this.image.addEventListener("load", () => (this.image.hidden = false));
  }

  /** Show how far a cell is. */
  update(cell) {
    const { status, key, settings, job } = cell;
    if (key !== this.#key || LOST.has(status)) this.#clear(key);
    if (status !== this.button.dataset.state) {
      this.button.dataset.state = status;
      this.button.disabled = status !== "finished";
      const state = { open: "developing", canceled: "cancelled" }[status] ?? status;
      this.button.setAttribute("aria-label", describe(settings, 0, state));
      this.words.textContent = STATES[status];
    }
    if (status === "open") this.button.style.setProperty("--progress", job?.progress ?? 0);
  }

  /** Show what this one really used, if it is not what the labels say. */
  note(words) {
    if (this.used.textContent !== words) this.used.textContent = words;
  }

  #clear(key) {
    this.#key = key;
    this.entry = null;
    this.image.hidden = true;
    this.image.removeAttribute("src");
    this.developing?.stop();
    this.developing = new Developing(this.image);
    this.note("");
  }
}
