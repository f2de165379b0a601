/** The controls of a contact sheet: what varies along its columns and rows. */

import { axesOf, firstOf } from "./axes.js";
import { showAll, valuesField } from "./axis_fields.js";
import { element, field, select } from "./controls.js";
import { keep, recall } from "./memory.js";
import { costInWords, planOf, roomBeside } from "./sheet_plan.js";
import { MOST } from "./values.js";

const KEPT = "sheet.form."; // and the name of a model
const FIRST = { across: "guidance_scale", down: "steps", typed: {} };
const WAYS = { across: "Columns", down: "Rows" };

/** Tells `start` (detail: a plan for `Sheet.start`) when all is right. */
export class SheetForm extends EventTarget {
  #model = null;

  /**
   * @param {HTMLFormElement} root
   * @param {import("./form.js").Form} form has all settings that do not vary.
   */
  constructor(root, form) {
    super();
    Object.assign(this, { root, form });
    root.addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
    root.addEventListener("change", (event) => this.#changed(event.target));
    root.addEventListener("input", ({ target }) => {
      if (!target.matches("select")) this.#changed(target);
    });
    root.addEventListener("click", (event) => {
      if (event.target.closest("[data-act=swap]")) this.#swap();
    });
    form.addEventListener("input", () => this.show());
  }

  /** Show what the form's model takes. */
  show() {
    const { model } = this.form;
    if (!model) return;
    if (model !== this.#model) {
      this.#model = model;
      this.axes = axesOf(model);
      this.kept = recall(KEPT + model.name, structuredClone(FIRST));
      this.#build();
    }
    this.#count();
  }

  /** Let the form show which of its fields the sheet does not use. */
  #mark() {
    const { across, down } = this.kept;
    this.form.root.dataset.varies = `${across} ${down}`.trim();
  }

  #build() {
    for (const way of Object.keys(WAYS)) {
      if (!this.#axis(way)) this.kept[way] = "";
      const choices = this.axes.map(({ name, label }) => [name, label]);
      const what = select(way, [...choices, ["", "Nothing"]], this.kept[way]);
      const values = element("div", { "data-values": way });
      const place = this.root.querySelector(`[data-way=${way}]`);
      place.replaceChildren(field(way, WAYS[way], what), values);
      this.#fill(way);
    }
  }

  /** Show the values of what varies. */
  #fill(way) {
    const axis = this.#axis(way);
    const place = this.root.querySelector(`[data-values=${way}]`);
    const fields = axis ? [valuesField(way, axis, this.#typed(way, axis), this.#model)] : [];
    place.replaceChildren(...fields);
  }

  /** What varies; undefined if nothing does. */
  #axis(way) {
    return this.axes.find((axis) => axis.name === this.kept[way]);
  }

  /** What is typed for an axis: a text, or what is chosen of its choices. */
  #typed(way, axis) {
    const { typed } = this.kept;
    const first = () => firstOf(axis, this.#room(way), this.#model, this.form.settings);
    return (typed[axis.name] ??= first());
  }

  /** For how many values a way has room, beside those that the other one has by now. */
  #room(way) {
    const axis = this.#axis(way === "down" ? "across" : "down");
    const typed = this.kept.typed[axis?.name];
    return roomBeside(typed === undefined ? null : { axis, typed });
  }

  /** What varies along a way, and what is typed for it; null if nothing does. */
  #asked(way) {
    const axis = this.#axis(way);
    return axis ? { axis, typed: this.#typed(way, axis) } : null;
  }

  #changed(target) {
    const way = target.closest("[data-way]")?.dataset.way;
    if (!way) return;
    this.#clear();
    const axis = this.#axis(way);
    if (target.name === way) {
      this.kept[way] = target.value;
      this.#fill(way);
    } else if (axis.kind === "choices") {
      this.kept.typed[axis.name] = this.#chosen(way, axis, target);
    } else this.kept.typed[axis.name] = target.value;
    keep(KEPT + this.#model.name, this.kept);
    this.#count();
  }

  /** The choices whose boxes are checked; the box of all of them checks the others. */
  #chosen(way, axis, target) {
    const all = this.root.elements[`${way}-all`];
    const boxes = [...this.root.querySelectorAll(`[name=${way}-values]`)];
    if (target === all) for (const box of boxes) box.checked = all.checked;
    showAll(all, boxes);
    return axis.choices.filter((_, at) => boxes[at].checked);
  }

  #swap() {
    const { across, down } = this.kept;
    Object.assign(this.kept, { across: down, down: across });
    keep(KEPT + this.#model.name, this.kept);
    this.#clear();
    this.#build();
    this.#count();
  }

  /** Say how many choices are checked, and how many can be. */
  #hint(way) {
    const axis = this.#axis(way);
    if (axis?.kind !== "choices") return;
    const all = axis.choices.length;
    const room = this.#room(way);
    const bound = ` At most ${room} fit, as a sheet has at most ${MOST} pictures.`;
    const words = `${this.#typed(way, axis).length} of ${all} are chosen.`;
    this.root.querySelector(`#hint-${way}-values`).textContent = room < all ? words + bound : words;
  }

  #plan() {
    const ways = { across: this.#asked("across"), down: this.#asked("down") };
    return planOf(this.#model, this.form.settings, ways);
  }

  /** Tell `start`, or say what is wrong beside the fields. */
  start() {
    this.#clear();
    const { wrong, plan } = this.#plan();
    for (const [name, words] of wrong) {
      const place = this.root.querySelector(`#wrong-${name}`);
      place.textContent = words;
      place.hidden = false;
      const inputs = this.root.querySelectorAll(`[name=${name}]`);
      for (const input of inputs) input.setAttribute("aria-invalid", "true");
    }
    const [first] = wrong.keys();
    const cost = this.root.querySelector("#sheet-cost");
    if (first) {
      cost.textContent = "";
      this.root.querySelector(`[name=${first}]`).focus();
    } else if (this.form.check()) this.dispatchEvent(new CustomEvent("start", { detail: plan }));
    else cost.textContent = "One of the other settings is wrong.";
  }

  #clear() {
    for (const each of this.root.querySelectorAll(".wrong")) each.hidden = true;
    for (const each of this.root.querySelectorAll("[aria-invalid]")) {
      each.removeAttribute("aria-invalid");
    }
  }

  /** Say how much it would be, or what is wrong, unless that is said beside a field. */
  #count() {
    const { wrong, plan } = this.#plan();
    const [words = costInWords(this.#model, plan?.cells ?? [])] = wrong.values();
    for (const way of Object.keys(WAYS)) this.#hint(way);
    this.#mark();
    const said = this.root.querySelector(".wrong:not([hidden])");
    this.root.querySelector("#sheet-cost").textContent = said ? "" : words;
  }
}
