/** The view of the contact sheet: its controls, its table, how far it is, and its file. */

import { element } from "./controls.js";
import { keepFocus } from "./focus.js";
import { inSeconds, sizeOf } from "./models.js";
import { addressOf, save } from "./pictures.js";
import { MOST, draw, fits, layoutOf, scaleInWords, scalesOf } from "./sheet_file.js";
import { SheetForm } from "./sheet_form.js";
import { captionOf, differenceOf, labelOf } from "./sheet_labels.js";
import { SheetTable } from "./sheet_table.js";

/** Tells `open` (detail: the entries of all finished cells, and which of them) on a click. */
export class SheetView extends EventTarget {
  #waiting = false; // for the next frame

  /**
   * @param {HTMLElement} root
   * @param {import("./sheet.js").Sheet} sheet
   * @param {object} parts of the page: `form`, `api`, and the functions `remember` and `say`.
   */
  constructor(root, sheet, { form, api, remember, say }) {
    super();
    Object.assign(this, { root, sheet, api, say });
    this.at = (name) => root.querySelector(`#sheet-${name}`);
    this.form = new SheetForm(this.at("form"), form);
    const table = new SheetTable(this.at("film"), sheet, api, remember);
    table.addEventListener("open", ({ detail: cell }) => this.#open(cell));
    this.form.addEventListener("start", ({ detail: plan }) => this.#start(plan));
    this.at("cancel").addEventListener("click", () => sheet.cancel());
    this.at("go-on").addEventListener("click", () => sheet.goOn());
    this.at("download").addEventListener("click", () => this.#download());
    this.at("scale").addEventListener("change", () => this.#note(""));
    sheet.addEventListener("new", () => this.#show());
    for (const name of ["cell", "change"]) sheet.addEventListener(name, () => this.#soon());
    sheet.addEventListener("end", () => say(`The contact sheet: ${this.#howFar()}`));
  }

  /** Show the controls for the model of the form. */
  show() {
    this.form.show();
    this.#progress();
  }

  /** Draw a sheet of what is typed, unless something is wrong. */
  draw() {
    this.form.start();
  }

  #start(plan) {
    if (this.sheet.draws(plan)) return this.say("This sheet is being drawn.");
    const replaced = this.sheet.running;
    this.sheet.start(plan);
    this.at("result").scrollIntoView({ block: "nearest" });
    const { length } = this.sheet.possible;
    const before = replaced ? "The sheet before was cancelled. " : "";
    this.say(`${before}A contact sheet of ${length} begins.`);
  }

  #open(cell) {
    const { finished } = this.sheet;
    const detail = { entries: finished.map((each) => each.entry), at: finished.indexOf(cell) };
    this.dispatchEvent(new CustomEvent("open", { detail }));
  }

  /** Show another sheet. */
  #show() {
    this.at("result").hidden = false;
    this.#scales();
    this.#note("");
    this.#progress();
  }

  /** Show how far it is when the browser paints next. */
  #soon() {
    if (this.#waiting) return;
    this.#waiting = true;
    requestAnimationFrame(() => {
      this.#waiting = false;
      this.#progress();
    });
  }

  #progress() {
    const { running, active, open, left, finished, possible, seconds } = this.sheet;
    this.at("start").textContent = active
      ? "Cancel this sheet, draw a new one"
      : this.sheet.cells.length
        ? "Draw a new sheet"
        : "Draw the sheet";
    const caption = captionOf(this.sheet);
    if (this.at("caption").textContent !== caption) this.at("caption").textContent = caption;
    const waits = open.find((cell) => cell.job?.note)?.job.note;
    const time = active && seconds !== null ? `, about ${inSeconds(seconds)} left` : "";
    this.at("progress").textContent = waits
      ? `${this.#howFar()}: ${waits}`
      : `${this.#howFar()}${time}`;
    this.at("bar").hidden = !active;
    this.at("bar").value = possible.length ? finished.length / possible.length : 0;
    keepFocus(this.at("cancel").parentElement, () => {
      this.at("cancel").hidden = !active;
      this.at("go-on").hidden = running || !left.length;
    });
    this.at("download").disabled = !finished.length;
  }

  /** In words: what is there, and why other pictures are not. */
  #howFar() {
    const { cells, finished, possible } = this.sheet;
    const count = (status) => cells.filter((each) => each.status === status).length;
    const notes = new Set(cells.map((cell) => cell.status !== "open" && cell.note).filter(Boolean));
    const parts = [
      `${finished.length} of ${possible.length}`,
      count("failed") && `${count("failed")} failed`,
      count("canceled") && `${count("canceled")} cancelled`,
      count("deleted") && `${count("deleted")} deleted`,
      count("impossible") && `${count("impossible")} cannot be drawn`,
    ];
    const told = parts.filter(Boolean).join(", ");
    return notes.size ? `${told} (${[...notes].slice(0, 3).join("; ")})` : told;
  }

  #size() {
    const { settings } = this.sheet.cells[0];
    const entry = this.sheet.finished[0]?.entry ?? { settings };
    const [width, height] = sizeOf(this.sheet.modelOf(settings.model), entry);
    return { width, height };
  }

  #contents() {
    const { sheet } = this;
    const labels = (way) => {
      const axis = sheet[way];
      if (!axis) return [""];
      const before = axis.name === "prompt" ? "" : `${axis.label} `;
      return axis.values.map((_, at) => before + labelOf(sheet, way, at).words);
    };
    return {
      title: "Contact sheet",
      caption: captionOf(sheet),
      columns: labels("across"),
      rows: labels("down"),
      notes: sheet.cells.map((cell) => differenceOf(sheet, cell)),
      ...this.#size(),
    };
  }

  #scales() {
    const { scales, usual } = scalesOf(this.#size().width);
    const contents = this.#contents();
    const options = scales.map((scale) => {
      const words = `${scaleInWords(scale)} (${sideInWords(layoutOf(contents, scale))})`;
      return element("option", { value: scale, selected: scale === usual }, words);
    });
    this.at("scale").replaceChildren(...options);
  }

  async #download() {
    const contents = this.#contents();
    const scale = Number(this.at("scale").value);
    const layout = layoutOf(contents, scale);
    if (!fits(layout)) return this.#offer(contents, scale, layout);
    const { cells } = this.sheet;
    this.at("download").disabled = true;
    this.#note("Reading the pictures.");
    try {
      const blob = await draw(contents, scale, (index) => {
        return cells[index].entry ? this.#file(cells[index]) : null;
      });
      save(blob, `contact-sheet-${cells[0].settings.model}.png`.replace(/[^\w.-]+/g, "_"));
      this.#note(`Saved: ${sideInWords(layout)}.`);
    } catch (error) {
      this.#note(`Nothing was saved: ${error.message}`);
    }
    this.#progress();
  }

  /** The picture of a finished cell: of its job, or drawn again where that is gone. */
  async #file({ id, entry }) {
    try {
      return await this.api.file(`jobs/${id}/images/0`);
    } catch (error) {
      if (error.status !== 404 && error.status !== 410) throw error;
      return this.api.file(addressOf(entry));
    }
  }

  /** Say why a scale is too large, and choose one that is not. */
  #offer(contents, scale, layout) {
    const megapixels = MOST.pixels / 1e6;
    const allowed = `${inThousands(MOST.side)} pixels a side and ${megapixels} megapixels`;
    const { scales } = scalesOf(contents.width);
    const smaller = scales.filter((each) => each < scale && fits(layoutOf(contents, each))).at(-1);
    const instead =
      smaller === undefined
        ? "No smaller scale fits either: draw fewer pictures in a row or a column."
        : `${scaleInWords(smaller)} fits, and is chosen now.`;
    const words = `${scaleInWords(scale)} would be ${sideInWords(layout)}`;
    this.#note(`${words}; a picture may have ${allowed}. ${instead}`);
    if (smaller !== undefined) this.at("scale").value = smaller;
  }

  #note(text) {
    this.at("note").textContent = text;
  }
}

function sideInWords({ width, height }) {
  return `${inThousands(width)} × ${inThousands(height)} pixels`;
}

function inThousands(number) {
  return number.toLocaleString("en");
}
