/** The controls of a contact sheet: what varies along its columns and rows. */

import { MOST, allowedOf, axesOf, cellOf, firstOf, valuesOf } from "./axes.js";
import { element, field, finder, select, textarea, wrong } from "./controls.js";
import { WrongValue } from "./fields.js";
import { keep, recall } from "./memory.js";
import { costOf, inSeconds } from "./models.js";
import { OPEN } from "./sheet.js";

const KEPT = "sheet.form."; // and the name of a model
const FIRST = { across: "guidance_scale", down: "steps", typed: {} };
const WAYS = { across: "Columns", down: "Rows" };
const MANY = 24; // choices that need a search

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
      this.#start();
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
      this.kept = { ...structuredClone(FIRST), ...recall(KEPT + model.name, {}) };
      this.#build();
    }
    this.#count();
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
    place.replaceChildren(...(axis ? [valuesField(way, axis, this.#typed(axis))] : []));
  }

  /** What varies; undefined if nothing does. */
  #axis(way) {
    return this.axes.find((axis) => axis.name === this.kept[way]);
  }

  /** What is typed for an axis: a text, or what is chosen of its choices. */
  #typed(axis) {
    const { typed } = this.kept;
    return (typed[axis.name] ??= firstOf(axis, this.#model, this.form.settings));
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

  /** The plan, and what is wrong with it: by the name of the field. */
  #plan() {
    const wrongs = new Map();
    const plan = {};
    for (const way of Object.keys(WAYS)) {
      const axis = this.#axis(way);
      plan[way] = null;
      if (!axis) continue;
      try {
        const values = valuesOf(axis, this.#typed(axis));
        plan[way] = { name: axis.name, label: axis.label, values };
      } catch (error) {
        if (!(error instanceof WrongValue)) throw error;
        wrongs.set(`${way}-values`, error.message);
      }
    }
    if (!this.kept.across && !this.kept.down) wrongs.set("across", "Choose what varies.");
    else if (this.kept.across === this.kept.down) {
      wrongs.set("down", `${this.#axis("down").label} varies along the columns already.`);
    }
    if (wrongs.size) return { wrongs };
    const [columns, rows] = [plan.across?.values ?? [null], plan.down?.values ?? [null]];
    const count = columns.length * rows.length;
    if (count > MOST) {
      const told = `${columns.length} × ${rows.length} are ${count} pictures`;
      const longer = columns.length > rows.length ? "across-values" : "down-values";
      wrongs.set(longer, `${told}; a sheet has at most ${MOST}.`);
      return { wrongs };
    }
    plan.cells = rows.flatMap((row) =>
      columns.map((column) => {
        const across = plan.across && { [plan.across.name]: column };
        const down = plan.down && { [plan.down.name]: row };
        return cellOf(this.#model, this.form.settings, { ...across, ...down });
      }),
    );
    return { wrongs, plan };
  }

  #start() {
    this.#clear();
    const { wrongs, plan } = this.#plan();
    for (const [name, words] of wrongs) {
      const place = this.root.querySelector(`#wrong-${name}`);
      place.textContent = words;
      place.hidden = false;
      const inputs = this.root.querySelectorAll(`[name=${name}]`);
      for (const input of inputs) input.setAttribute("aria-invalid", "true");
    }
    const [first] = wrongs.keys();
    if (first) return this.root.querySelector(`[name=${first}]`).focus();
    if (!this.form.check()) return;
    this.dispatchEvent(new CustomEvent("start", { detail: plan }));
  }

  #clear() {
    for (const each of this.root.querySelectorAll(".wrong")) each.hidden = true;
    for (const each of this.root.querySelectorAll("[aria-invalid]")) {
      each.removeAttribute("aria-invalid");
    }
  }

  /** Say how much it would be. */
  #count() {
    const { wrongs, plan } = this.#plan();
    const place = this.root.querySelector("#sheet-cost");
    place.textContent = wrongs.size ? [...wrongs.values()][0] : costInWords(this.#model, plan.cells);
  }
}

function costInWords(model, cells) {
  const possible = cells.filter((each) => !each.impossible);
  const beside = Math.min(OPEN, possible.length); // they are drawn together
  let [evaluations, seconds] = [0, 0];
  for (const { settings } of possible) {
    const cost = costOf(model, { ...settings, n: beside });
    evaluations += cost.evaluations / beside;
    seconds = cost.seconds === null || seconds === null ? null : seconds + cost.seconds / beside;
  }
  const pictures = possible.length === 1 ? "1 picture" : `${possible.length} pictures`;
  const without = cells.length - possible.length;
  return [
    without ? `${pictures} (${without} cannot be drawn)` : pictures,
    Number.isFinite(evaluations) && `${evaluations} evaluations`,
    Number.isFinite(seconds) && seconds !== null && `about ${inSeconds(seconds)}`,
  ]
    .filter(Boolean)
    .join(", ");
}

function valuesField(way, axis, typed) {
  const name = `${way}-values`;
  if (axis.kind === "choices") return choicesField(way, axis, typed);
  if (axis.kind === "lines") {
    return field(name, "Prompts, one a line", textarea(name, typed, { rows: 4 }));
  }
  const input = element("input", { type: "text", name, value: typed, autocomplete: "off" });
  input.spellcheck = false;
  const made = field(name, "Values", input);
  const hint = element("p", { class: "hint", id: `hint-${name}` });
  hint.append(`${allowedOf(axis)} Ranges: 1-9, 10-50 (+10) or 10-50 [5].`);
  input.setAttribute("aria-describedby", `hint-${name} wrong-${name}`);
  made.querySelector(".wrong").before(hint);
  return made;
}

/** A box for each choice, and one for all of them. */
function choicesField(way, axis, chosen) {
  const name = `${way}-values`;
  const boxes = axis.choices.map((value) => {
    const attributes = { type: "checkbox", name, checked: chosen.includes(value) };
    return element("input", attributes);
  });
  const all = element("input", { type: "checkbox", name: `${way}-all` });
  showAll(all, boxes);
  const labels = boxes.map((box, at) =>
    element("label", { class: "choice" }, box, element("span", {}, axis.choices[at])),
  );
  const list = element("div", { class: "choices" }, ...labels);
  return element(
    "fieldset",
    { class: "field", "aria-describedby": `wrong-${name}` },
    element("legend", {}, axis.label),
    element("label", { class: "choice" }, all, element("span", {}, "All")),
    labels.length > MANY ? finder(list) : null,
    list,
    wrong(name),
  );
}

function showAll(all, boxes) {
  const checked = boxes.filter((box) => box.checked).length;
  all.checked = checked === boxes.length;
  all.indeterminate = checked > 0 && checked < boxes.length;
}
