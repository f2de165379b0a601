/** Controls of a form: elements with a label, and a place for what is wrong with them. */

/**
 * An element with attributes and children; text is never read as HTML.
 *
 * `true` and `false` say whether an attribute is there; of `aria-*` they are written out.
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("aria-") && value != null) made.setAttribute(key, value);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((each) => each != null));
  return made;
}

/** A field: a label, its control, and a place for what is wrong with it. */
export function field(name, label, control, { wide = false, hint = "" } = {}) {
  const inner = control.matches("input, select, textarea")
    ? control
    : control.querySelector("input:not([aria-hidden]), select, textarea");
  inner.id = `field-${name}`;
  inner.setAttribute("aria-describedby", `wrong-${name}`);
  return element(
    "div",
    { class: wide ? "field wide" : "field", "data-field": name },
    element("label", { for: inner.id }, label, hint && element("span", { class: "hint" }, hint)),
    control,
    wrong(name),
  );
}

/**
 * A number, with a slider for those who like one.
 *
 * @param {string} name
 * @param {number|string} value
 * @param {{min: number, max: number, step?: number, curve?: number}} range `curve` above 1 gives
 *   small numbers more of the slider.
 */
export function number(name, value, { min, max, step = 1, curve = 1 }) {
  const steps = Number.isInteger(step) ? step : "any";
  const attributes = { type: "number", name, min, max, step: steps, value, required: true };
  const input = element("input", attributes);
  const slider = element("input", { type: "range", min: 0, max: 1, step: "any" });
  slider.tabIndex = -1;
  slider.setAttribute("aria-hidden", "true"); // the number beside it says the same
  const show = () => (slider.value = ((input.value - min) / (max - min)) ** (1 / curve));
  input.addEventListener("input", show);
  slider.addEventListener("input", () => {
    const exact = min + (max - min) * slider.value ** curve;
    input.value = Number((Math.round(exact / step) * step).toFixed(4));
    input.dispatchEvent(new Event("input", { bubbles: true }));
    show();
  });
  show();
  return element("div", { class: "number" }, input, slider);
}

/** A list of choices: pairs of value and words. */
export function select(name, choices, value) {
  const options = choices.map(([each, words]) =>
    element("option", { value: each, selected: each === value }, words),
  );
  return element("select", { name }, ...options);
}

/** A text of several lines. */
export function textarea(name, value, { maxlength, rows = 3, placeholder = "" }) {
  const made = element("textarea", { name, maxlength, rows, placeholder, spellcheck: "true" });
  made.value = value;
  return made;
}

/** A whole number with several buttons beside it, such as the seed's. */
export function digits(name, value, ...buttons) {
  const attributes = { name, inputmode: "numeric", pattern: "[0-9]+", autocomplete: "off" };
  const input = element("input", { ...attributes, type: "text", value, required: true });
  return element("div", { class: "seed" }, input, ...buttons);
}

/** A button that shows a drawing and says a label. */
export function iconButton(act, label, path, pressed) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  line.setAttribute("d", path);
  svg.append(line);
  const attributes = { type: "button", class: "icon", "data-act": act, "aria-label": label };
  return element("button", { ...attributes, title: label, "aria-pressed": pressed }, svg);
}

/** A place for what is wrong with a field. */
export function wrong(name) {
  return element("p", { class: "wrong", id: `wrong-${name}`, role: "alert", hidden: true });
}

/** A choice of one class, by buttons or by pictures of the sheet. */
export function classes(model, chosen, sheet) {
  const any = model.class_required ? [] : [option(null, "any", chosen == null)];
  const all = model.classes.map((name, index) => option(name, name, name === chosen, index));
  const list = element("div", { class: "classes" }, ...any, ...all);
  if (!sheet) any[0]?.classList.add("any");
  return element(
    "fieldset",
    { class: "field wide", "data-field": "class", "aria-describedby": "wrong-class" },
    element("legend", {}, "Class"),
    model.classes.length > 24 ? finder(list) : null,
    list,
    wrong("class"),
  );

  function option(value, words, checked, index) {
    const radio = element("input", { type: "radio", name: "class", value: value ?? "", checked });
    const face = element("span", {}, words);
    if (sheet && index !== undefined) {
      face.className = "sample";
      face.replaceChildren(element("b", {}, words));
      face.style.backgroundImage = `url("${sheet}")`;
      face.style.backgroundSize = `${100 * model.classes.length}% 100%`;
      face.style.backgroundPosition = `${(100 * index) / Math.max(model.classes.length - 1, 1)}% 0`;
    }
    return element("label", { class: "class" }, radio, face);
  }
}

/** A search among the labels of a list, which hides the others. */
export function finder(list) {
  const input = element("input", { type: "search", "aria-label": "Find a class" });
  input.placeholder = "Find a class";
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const label of list.children) {
      label.hidden = !label.textContent.toLowerCase().includes(wanted);
    }
  });
  return input;
}
