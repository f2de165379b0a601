/** Controls for the values of an axis of a contact sheet. */

import { allowedOf, wordsOf } from "./axes.js";
import { element, field, finder, textarea, wrong } from "./controls.js";

const MANY = 24; // choices that need a search

/**
 * The field for the values of an axis.
 *
 * @param {string} way the axis is for: the names of the controls begin with it.
 * @param {object} axis of `axesOf`.
 * @param {string|string[]} typed a text, or what is chosen of the choices.
 * @param {object} model of `GET /models`.
 * @returns {HTMLElement}
 */
export function valuesField(way, axis, typed, model) {
  const name = `${way}-values`;
  if (axis.kind === "choices") return choicesField(way, axis, typed, model);
  if (axis.kind === "lines") {
    return field(name, "Prompts, one a line", textarea(name, typed, { rows: 4 }));
  }
  const input = element("input", { type: "text", name, value: typed, autocomplete: "off" });
  input.spellcheck = false;
  const made = field(name, "Values", input);
  const hint = element("p", { class: "hint", id: `hint-${name}` });
  const allowed = axis.name === "seed" ? "Whole numbers." : allowedOf(axis);
  hint.append(`${allowed} Ranges: 1-9; 10-50 (+10), by tens; 10-50 [5], five values.`);
  input.setAttribute("aria-describedby", `hint-${name} wrong-${name}`);
  made.querySelector(".wrong").before(hint);
  return made;
}

/** A box for each choice, and one for all of them. */
function choicesField(way, axis, chosen, model) {
  const name = `${way}-values`;
  const boxes = axis.choices.map((value) => {
    const attributes = { type: "checkbox", name, checked: chosen.includes(value) };
    return element("input", attributes);
  });
  const all = element("input", { type: "checkbox", name: `${way}-all` });
  showAll(all, boxes);
  const labels = boxes.map((box, at) => {
    const words = wordsOf(axis.name, axis.choices[at], model);
    return element("label", { class: "choice" }, box, element("span", {}, words));
  });
  const list = element("div", { class: "choices" }, ...labels);
  return element(
    "fieldset",
    { class: "field", "aria-describedby": `hint-${name} wrong-${name}` },
    element("legend", {}, axis.label),
    element("label", { class: "choice" }, all, element("span", {}, "All")),
    labels.length > MANY ? finder(list) : null,
    list,
    element("p", { class: "hint", id: `hint-${name}` }),
    wrong(name),
  );
}

/** Show in the box of all choices whether all, some or none of their boxes are checked. */
export function showAll(all, boxes) {
  const checked = boxes.filter((box) => box.checked).length;
  all.checked = checked === boxes.length;
  all.indeterminate = checked > 0 && checked < boxes.length;
}
