/** A contact sheet: its cells, the jobs that draw them, and which comes next. Knows no elements. */

import { Cell, drawnBy } from "./cell.js";
import { newKey } from "./job.js";
import { heed, keep, recall } from "./memory.js";
import { Pace } from "./pace.js";
import { OPEN } from "./sheet_plan.js";

const KEPT = "sheet"; // its axes and settings
const ASKED = "sheet.jobs"; // the key and the id of each cell's job; it changes often
const NONE = { id: "", cells: [] }; // no sheet
const LEFT = new Set(["waiting", "failed", "canceled", "deleted"]); // what "Go on" draws

/**
 * The sheet. It is kept in this browser, and found again by `restore`.
 *
 * Tells `new` (there is another sheet), `cell` (detail: a cell that changed), `preview` (detail:
 * the cell, the step, and the address), `change` (how far it is), `begin` and `end`.
 */
export class Sheet extends EventTarget {
  /** Whether cells that wait are asked for. */
  running = false;
  id = null;
  /** `{name, label, values}`, or null where nothing varies. */
  across = null;
  down = null;
  /** In reading order. */
  cells = [];
  #pace;

  /**
   * @param {import("./jobs.js").Jobs} jobs
   * @param {import("./history.js").History} history
   * @param {(name: string) => object|undefined} modelOf
   */
  constructor(jobs, history, modelOf) {
    super();
    Object.assign(this, { jobs, history, modelOf });
    this.#pace = new Pace(modelOf);
    jobs.addEventListener("change", ({ detail: job }) => this.#follow(job));
    jobs.addEventListener("preview", ({ detail: { job, step, url } }) => {
      const cell = job.sheet && this.#of(job.key);
      if (cell) this.#dispatch("preview", { cell, step, url });
    });
    heed(ASKED, () => this.#adopt());
  }

  /** Cells beside each other. */
  get columns() {
    return this.across?.values.length ?? 1;
  }

  /** Which column and row a cell is in, from 0: `{across, down}`. */
  placeOf({ index }) {
    return { across: index % this.columns, down: Math.floor(index / this.columns) };
  }

  /** Cells that are finished, in reading order. */
  get finished() {
    return this.cells.filter((cell) => cell.status === "finished");
  }

  /** Cells that can be drawn. */
  get possible() {
    return this.cells.filter((cell) => cell.status !== "impossible");
  }

  /** Cells that "Go on" draws. */
  get left() {
    return this.cells.filter((cell) => LEFT.has(cell.status));
  }

  /** Cells whose jobs have not ended. */
  get open() {
    return this.cells.filter((cell) => cell.status === "open");
  }

  /** Whether a cell is open or will be. */
  get active() {
    return this.running || this.open.length > 0;
  }

  /** Seconds until the end, as it went since it began to run; null while that is not known. */
  get seconds() {
    return this.#pace.secondsLeft(this.possible);
  }

  /** Draw another sheet; one that runs is cancelled. */
  start({ across, down, cells }) {
    this.#stop();
    const plan = { id: newKey(), across, down, cells };
    keep(KEPT, plan);
    this.#take(plan, []);
    this.goOn();
  }

  /** Draw what is missing. */
  goOn() {
    this.#dispatch("begin");
    for (const cell of this.left) {
      Object.assign(cell, { status: "waiting", note: "", key: null, id: null, job: null });
      this.#dispatch("cell", cell);
    }
    this.running = true;
    this.#pace.begin(this.possible);
    this.#next();
  }

  /** Whether it is being drawn, and just as this plan says. */
  draws(plan) {
    const told = ({ across, down, cells }) => {
      return JSON.stringify([across, down, cells.map((cell) => cell.settings)]);
    };
    return this.active && told(plan) === told(this);
  }

  /** Cancel what is open, and ask for no more, in all tabs; finished cells stay. */
  cancel() {
    this.#stop();
    this.#save(true);
  }

  #stop() {
    this.running = false;
    const jobs = this.open.map((cell) => cell.job).filter(Boolean);
    for (const job of jobs) this.jobs.cancel(job);
    this.#dispatch("change");
  }

  /** Find the sheet of the last visit: its pictures in the history, and its open jobs. */
  async restore() {
    const plan = recall(KEPT, NONE);
    if (!plan.cells.length) return;
    this.#take(plan, asked(plan.id).jobs);
    await Promise.all(this.cells.map((cell) => this.#find(cell)));
  }

  /** The picture of a cell is not there, or not any more: it `failed`, or was `deleted`. */
  lose(cell, status, note = "") {
    if (this.cells[cell.index] !== cell) return; // of a sheet before this one
    Object.assign(cell, { status, note, entry: null, key: null, id: null });
    this.#save();
    this.#tell(cell);
  }

  /** The entry of the cell that has the same picture; undefined if none has. */
  entryOf(entry) {
    return this.#with(entry)?.entry;
  }

  /**
   * Lose the picture of an entry that was deleted.
   *
   * @returns {(() => void)|undefined} brings it back, unless the cell is drawn anew.
   */
  forget(entry) {
    const cell = this.#with(entry);
    if (!cell) return undefined;
    const { entry: drawn, key, id } = cell;
    this.lose(cell, "deleted");
    return () => {
      if (cell.status !== "deleted" || !this.cells.includes(cell)) return;
      Object.assign(cell, { key, id });
      this.#save();
      this.#finish(cell, drawn);
    };
  }

  #with({ id }) {
    return this.cells.find((cell) => cell.entry?.id === id);
  }

  #of(key) {
    return this.cells.find((cell) => cell.key === key);
  }

  #take({ id, across, down, cells }, jobs) {
    Object.assign(this, { id, across, down });
    this.cells = cells.map((cell, at) => new Cell(cell, jobs[at] ?? [null, null], at));
    this.running = false;
    this.#dispatch("new");
  }

  /** Ask for cells until enough are open. */
  #next() {
    if (this.running) {
      const waiting = this.cells.filter((cell) => cell.status === "waiting");
      for (const cell of waiting.slice(0, Math.max(0, OPEN - this.open.length))) {
        cell.job = this.jobs.submit(cell.settings, this.id);
        Object.assign(cell, { key: cell.job.key, status: "open" });
        this.#dispatch("cell", cell);
      }
      this.#save();
      if (!this.open.length) {
        this.running = false;
        this.#dispatch("end");
      }
    }
    this.#dispatch("change");
  }

  #follow(job) {
    const cell = job.sheet && this.#of(job.key);
    if (!cell || cell.status === "finished") return;
    cell.job = job;
    cell.id = job.id;
    const model = this.modelOf(cell.settings.model);
    if (job.status === "succeeded") this.#finish(cell, drawnBy(job, model));
    else if (job.over) {
      cell.status = job.status === "canceled" ? "canceled" : "failed";
      cell.note = job.note;
      if (cell.status === "canceled") this.running = false; // perhaps in another tab
      this.#tell(cell);
    } else {
      this.#dispatch("cell", cell);
      this.#dispatch("change");
    }
  }

  #finish(cell, entry) {
    Object.assign(cell, { entry, status: "finished", note: "" });
    this.#tell(cell);
  }

  #tell(cell) {
    this.#dispatch("cell", cell);
    this.#next();
  }

  /** Find out what became of a cell that was asked for earlier, or elsewhere this moment. */
  async #find(cell, sending = false) {
    const { key, id, settings } = cell;
    if (!key || cell.job || cell.entry) return;
    const entry = await this.history.get(`${key}-0`);
    if (this.cells[cell.index] !== cell || cell.key !== key || cell.job) return; // told meanwhile
    const job = this.jobs.open.find((each) => each.key === key);
    if (entry) this.#finish(cell, entry);
    else if (job) this.#follow(job);
    else if (id || sending) {
      const kept = { key, id, settings, created: Date.now(), sheet: this.id };
      this.#follow(this.jobs.join(kept));
    } else {
      Object.assign(cell, { status: "waiting", key: null });
      this.#tell(cell);
    }
  }

  /** Another tab went on with the sheet, began one or cancelled it: if it runs, it runs there. */
  #adopt() {
    const plan = recall(KEPT, NONE);
    if (!plan.cells.length) return;
    const { jobs, canceled } = asked(plan.id);
    if (canceled && plan.id === this.id) return this.#stop();
    this.running = false;
    if (plan.id !== this.id) this.#take(plan, []);
    jobs.forEach(([key, id], at) => {
      const cell = this.cells[at];
      if (key === cell.key) return;
      Object.assign(cell, { key, id, job: null, entry: null, note: "" });
      cell.status = key ? "open" : "waiting";
      this.#tell(cell);
    });
    for (const cell of this.cells) this.#find(cell, true); // by its key, it is drawn once
  }

  #save(canceled = false) {
    const jobs = this.cells.map(({ key, id }) => [key, id]);
    keep(ASKED, { sheet: this.id, jobs, canceled });
  }

  #dispatch(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

/** What is kept of a sheet: `jobs`, the key and the id of each cell's, and whether it was `canceled`. */
function asked(id) {
  const none = { sheet: id, jobs: [], canceled: false };
  const kept = recall(ASKED, none);
  return kept.sheet === id ? kept : none;
}
