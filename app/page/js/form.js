/** The form: made of what a model allows, and kept as it was typed. */

import { fieldsOf } from "./bench.js";
import { classes, element } from "./controls.js";
import { LARGEST_SEED } from "./fields.js";
import { keep, recall } from "./memory.js";
import { costOf, defaultsOf, inSeconds, samplerOf } from "./models.js";

const KEPT = "form";
const SEEDS = 2 ** 32; // of the dice; short enough to read aloud
const NUMBERS = ["steps", "guidance_scale", "eta", "seed", "n", "width", "height", "clip_skip"];
const ACROSS = ["prompt", "negative_prompt", "class", "seed", "n"]; // kept for another model

/**
 * Tells `develop` (detail: settings) when pictures are wanted, `input` when it changes, and `load`
 * (detail: a name) when a model is chosen that was never loaded.
 */
export class Form extends EventTarget {
  #model;
  #models = [];
  #others = []; // names of models that were never loaded
  #extra = {}; // settings without a field of their own, such as guidance_interval

  /**
   * @param {HTMLFormElement} root
   * @param {(model: object) => Promise<string|null>} sheetOf gives the address of a model's sheet
   *   of one sample a class, or null.
   */
  constructor(root, sheetOf) {
    super();
    this.root = root;
    this.sheetOf = sheetOf;
    this.fields = root.querySelector("#fields");
    this.kept = recall(KEPT, { model: "", values: {}, locked: false });
    root.addEventListener("submit", (event) => {
      event.preventDefault();
      this.develop();
    });
    for (const name of ["input", "change"]) {
      root.addEventListener(name, (event) => this.#changed(event.target));
    }
    this.fields.addEventListener("click", (event) => {
      const act = event.target.closest("[data-act]")?.dataset.act;
      if (act === "dice") this.roll();
      if (act === "lock") this.lock(!this.kept.locked);
      if (act === "whole") this.#guideAll();
    });
  }

  /**
   * Show the fields of these models, as they were typed last.
   *
   * @param {object[]} models
   * @param {string[]} others names of models that were never loaded.
   */
  show(models, others) {
    this.#models = models;
    this.#others = others;
    const wanted = models.find((each) => each.name === this.kept.model);
    this.#build(wanted ?? models[0], this.kept.values[(wanted ?? models[0]).name] ?? {});
    for (const button of this.root.querySelectorAll("button")) button.disabled = false;
  }

  /** The model that is chosen; undefined until models are known. */
  get model() {
    return this.#model;
  }

  /** Whether the seed stays as it is. */
  get locked() {
    return this.kept.locked;
  }

  /** The body of a request, as the fields have it. Numbers that are none are NaN. */
  get settings() {
    const values = this.#values();
    const settings = { model: this.#model.name, ...this.#extra };
    for (const [name, text] of Object.entries(values)) {
      if (name === "model" || this.#input(name)?.closest("[hidden]")) continue;
      settings[name] = NUMBERS.includes(name) ? parse(text) : text;
    }
    if (settings.class === "") settings.class = null;
    return settings;
  }

  /**
   * Fill the fields with the settings of a picture, and lock its seed.
   *
   * @param {object} settings fields that are absent get the model's defaults.
   * @returns {boolean} whether the service has their model; if not, the model stays.
   */
  restore(settings) {
    const known = this.#models.find((each) => each.name === settings.model);
    const model = known ?? this.#model;
    const { seed, ...rest } = { ...defaultsOf(model), ...settings };
    this.#build(model, { ...rest, seed: seed ?? this.#values().seed });
    if (seed !== undefined) this.lock(true);
    this.#changed();
    return Boolean(known);
  }

  /** Go over to another model, which is loaded first if it never was. */
  choose(name) {
    const model = this.#models.find((each) => each.name === name);
    if (!model) {
      this.#input("model").value = this.#model.name; // until then
      return this.#dispatch("load", name);
    }
    const values = this.#values();
    const taken = ACROSS.filter((each) => values[each] !== undefined).map((k) => [k, values[k]]);
    this.#build(model, { ...this.kept.values[name], ...Object.fromEntries(taken) });
    this.#changed();
    this.#input("model").focus();
  }

  /** Use a seed again. */
  reuse(seed) {
    this.#input("seed").value = seed;
    this.lock(true);
  }

  /** Another seed by chance. */
  roll() {
    if (!this.#model) return;
    this.#input("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % SEEDS;
    this.#changed();
  }

  /** Keep the seed for all next pictures, or have another for each click. */
  lock(locked) {
    if (!this.#model) return;
    this.kept.locked = locked;
    const button = this.fields.querySelector("[data-act=lock]");
    button.setAttribute("aria-pressed", locked);
    if (locked) this.#changed();
    else this.roll();
  }

  /**
   * Ask for pictures of these settings, unless a field is wrong. The seed that is shown is drawn;
   * then the next one is shown, unless it is locked.
   */
  develop() {
    if (!this.#model || !this.check()) return;
    this.note("");
    this.#dispatch("develop", this.settings);
    if (!this.kept.locked) this.roll();
  }

  /** Whether every field is right. If not, it is said beside the field, which gets the focus. */
  check() {
    this.clear();
    const invalid = [...this.fields.querySelectorAll("input, textarea")].filter(
      (each) => !each.closest("[hidden]") && !each.checkValidity(),
    );
    for (const input of invalid) this.#wrong(input.name, input.validationMessage);
    const { seed, n } = this.settings;
    if (!invalid.length && seed + (n - 1) > LARGEST_SEED) {
      const words = `This page can use seeds up to ${LARGEST_SEED}`;
      this.#wrong("seed", n > 1 ? `${words}, also of the last picture.` : `${words}.`);
      invalid.push(this.#input("seed"));
    }
    invalid[0]?.focus();
    return !invalid.length;
  }

  /** Say what the service finds wrong: beside the fields, and above the button. */
  refuse(problem) {
    const placed = [...problem.fields].filter(([name, words]) => this.#wrong(name, words));
    const rest = placed.length < problem.fields.size || !placed.length;
    const above = this.root.querySelector("#form-wrong");
    above.hidden = !rest;
    above.textContent = rest ? problem.message : "";
    if (placed.length) this.#input(placed[0][0])?.focus();
  }

  /** Say a text above the button, until a setting changes or Develop is pressed. */
  note(text) {
    this.root.querySelector("#form-note").textContent = text;
  }

  /** Nothing is wrong any more. */
  clear() {
    for (const each of this.root.querySelectorAll(".wrong")) each.hidden = true;
    for (const each of this.root.querySelectorAll("[aria-invalid]")) {
      each.removeAttribute("aria-invalid");
    }
  }

  #guideAll() {
    this.restore({ ...this.settings, guidance_interval: undefined, seed: undefined });
  }

  #build(model, typed) {
    this.#model = model;
    const { guidance_interval: interval } = typed;
    this.#extra = interval ? { guidance_interval: interval } : {};
    const values = { ...defaultsOf(model), seed: Math.floor(Math.random() * SEEDS), ...typed };
    if (!model.prompts && !model.classes.includes(values.class)) {
      values.class = defaultsOf(model).class;
    }
    this.fields.replaceChildren(...fieldsOf(model, this.#choices(), values, this.kept.locked));
    this.#adapt(values.spacing);
    this.#guide();
    this.#cost();
    if (!model.prompts) this.#showSheet(model);
  }

  async #showSheet(model) {
    const sheet = await this.sheetOf(model);
    if (!sheet || this.#model !== model) return;
    const chosen = this.#values().class || null;
    this.fields.querySelector("[data-field=class]").replaceWith(classes(model, chosen, sheet));
  }

  /** Offer what the sampler can do; a spacing stays if it can be. */
  #adapt(wanted) {
    const spacing = this.#input("spacing");
    const sampler = samplerOf(this.#model, { sampler: this.#input("sampler").value });
    const chosen = sampler.spacings.includes(wanted) ? wanted : "default";
    spacing.replaceChildren(
      ...sampler.spacings.map((each) =>
        element("option", { value: each, selected: each === chosen }, each),
      ),
    );
    spacing.closest(".field").hidden = sampler.spacings.length < 2;
    this.#input("eta").closest(".field").hidden = !sampler.eta;
    const alone = sampler.spacings.length < 2 && !sampler.eta;
    this.#input("sampler").closest(".field").classList.toggle("wide", alone);
  }

  /** Without a class there is nothing to guide to. What is typed stays, for when there is one. */
  #guide() {
    const none = this.#values().class === "";
    const field = this.fields.querySelector("[data-field=guidance_scale]");
    field.classList.toggle("unused", none);
    field.querySelector(".hint").hidden = !none;
    field.querySelector("[type=number]").readOnly = none;
    field.querySelector("[type=range]").disabled = none;
  }

  #changed(target) {
    if (!this.#model) return;
    if (target?.name === "model" && target.value !== this.#model.name) {
      return this.choose(target.value);
    }
    if (target?.name === "sampler") this.#adapt(this.#input("spacing").value);
    if (target?.name === "class") this.#guide();
    target?.removeAttribute("aria-invalid");
    if (target?.name === "seed" && !this.kept.locked) return this.lock(true); // typed to be drawn
    this.note("");
    this.kept.model = this.#model.name;
    this.kept.values[this.#model.name] = { ...this.#values(), ...this.#extra };
    keep(KEPT, this.kept);
    this.#cost();
    this.#dispatch("input", this.settings);
  }

  #choices() {
    const known = this.#models.map(({ name }) => [name, name]);
    return [...known, ...this.#others.map((name) => [name, `${name} (not loaded)`])];
  }

  #cost() {
    const { evaluations, seconds } = costOf(this.#model, this.settings);
    const words = evaluations === 1 ? "evaluation" : "evaluations";
    const time = seconds === null ? "" : `, about ${inSeconds(seconds)}`;
    const cost = this.root.querySelector("#cost");
    cost.textContent = evaluations > 0 ? `${evaluations} ${words}${time}` : "";
  }

  #values() {
    return Object.fromEntries(new FormData(this.root));
  }

  #input(name) {
    const found = this.root.elements[name];
    return found instanceof RadioNodeList ? found[0] : found;
  }

  #wrong(name, words) {
    const place = this.root.querySelector(`#wrong-${CSS.escape(name)}`);
    if (!place || place.closest(".field[hidden]")) return false;
    place.textContent = words;
    place.hidden = false;
    this.#input(name)?.setAttribute("aria-invalid", "true");
    return true;
  }

  #dispatch(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

function parse(text) {
  return text.trim() === "" ? NaN : Number(text);
}
