/** The form: made of what a model allows, and kept as it was typed. */

import { classes, digits, element, field, iconButton, number, select, textarea } from "./controls.js";
import { keep, recall } from "./memory.js";
import { costOf, defaultsOf, inSeconds, samplerOf } from "./models.js";

const KEPT = "form";
const SEEDS = 2 ** 32; // of the dice; short enough to read aloud
const WIDE = { wide: true };
const NUMBERS = ["steps", "guidance_scale", "eta", "seed", "n", "width", "height", "clip_skip"];
const ACROSS = ["prompt", "negative_prompt", "class", "seed", "n"]; // what another model takes along
const DICE = "M6 4.5h12a1.5 1.5 0 0 1 1.5 1.5v12a1.5 1.5 0 0 1-1.5 1.5H6A1.5 1.5 0 0 1 4.5 18V6A1.5 1.5 0 0 1 6 4.5zM9 9v.01M15 15v.01M12 12v.01M15 9v.01M9 15v.01";
const LOCK = "M6.5 11h11v8.5h-11zM9 11V8a3 3 0 0 1 6 0v3";

/** Tells `develop` (detail: settings) when pictures are wanted, and `input` when it changes. */
export class Form extends EventTarget {
  #model;
  #models = [];
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
    this.kept = { values: {}, locked: false, ...recall(KEPT, {}) };
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
    });
  }

  /** Show the fields of these models, as they were typed last. */
  show(models) {
    this.#models = models;
    const wanted = models.find((each) => each.name === this.kept.model);
    this.#build(wanted ?? models[0], this.kept.values[(wanted ?? models[0]).name] ?? {});
    this.root.querySelector("#develop").disabled = false;
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
    const { guidance_interval: interval } = settings;
    this.#build(model, { ...rest, seed: seed ?? this.#values().seed });
    this.#extra = interval ? { guidance_interval: interval } : {};
    if (seed !== undefined) this.lock(true);
    this.#changed();
    return Boolean(known);
  }

  /** Use a seed again. */
  reuse(seed) {
    this.#input("seed").value = seed;
    this.lock(true);
  }

  /** Another seed by chance. */
  roll() {
    this.#input("seed").value = crypto.getRandomValues(new Uint32Array(1))[0] % SEEDS;
    this.#changed();
  }

  /** Keep the seed for the next pictures, or not. */
  lock(locked) {
    this.kept.locked = locked;
    const button = this.fields.querySelector("[data-act=lock]");
    button.setAttribute("aria-pressed", locked);
    this.#changed();
  }

  /** Ask for pictures of these settings, unless a field is wrong. */
  develop() {
    if (!this.#model) return;
    this.clear();
    if (!this.kept.locked) this.roll();
    const invalid = [...this.fields.querySelectorAll("input, textarea")].filter(
      (each) => !each.closest("[hidden]") && !each.checkValidity(),
    );
    for (const input of invalid) this.#wrong(input.name, input.validationMessage);
    if (invalid.length) return invalid[0].focus();
    const seed = this.#input("seed");
    if (!Number.isSafeInteger(Number(seed.value))) {
      this.#wrong("seed", `This page can use seeds up to ${Number.MAX_SAFE_INTEGER}.`);
      return seed.focus();
    }
    this.#dispatch("develop", this.settings);
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

  /** Nothing is wrong any more. */
  clear() {
    for (const each of this.root.querySelectorAll(".wrong")) each.hidden = true;
    for (const each of this.root.querySelectorAll("[aria-invalid]")) {
      each.removeAttribute("aria-invalid");
    }
  }

  #build(model, typed) {
    this.#model = model;
    this.#extra = {};
    const values = { ...defaultsOf(model), seed: Math.floor(Math.random() * SEEDS), ...typed };
    if (!model.prompts && !model.classes.includes(values.class)) {
      values.class = defaultsOf(model).class;
    }
    this.fields.replaceChildren(...this.#parts(model, values));
    this.#adapt();
    this.#cost();
    if (!model.prompts) this.#showSheet(model);
  }

  async #showSheet(model) {
    const sheet = await this.sheetOf(model);
    if (!sheet || this.#model !== model) return;
    const chosen = this.#values().class || null;
    this.fields.querySelector("[data-field=class]").replaceWith(classes(model, chosen, sheet));
  }

  #parts(model, values) {
    const { limits, sizes, prompts } = model;
    const choices = this.#models.map((each) => [each.name, each.name]);
    const samplers = model.samplers.map((each) => [each.name, each.title]);
    const most = prompts && { maxlength: prompts.characters };
    const side = sizes && { min: sizes.least, max: sizes.most, step: sizes.step };
    const locked = this.kept.locked;
    return [
      choices.length > 1 &&
        field("model", "Model", select("model", choices, model.name), WIDE),
      prompts && field("prompt", "Prompt", textarea("prompt", values.prompt, most), WIDE),
      prompts &&
        field("negative_prompt", "Without", textarea("negative_prompt", values.negative_prompt, { ...most, rows: 2 }), WIDE),
      !prompts && classes(model, values.class, null),
      field("steps", "Steps", number("steps", values.steps, { min: 1, max: limits.steps, curve: 3 }), WIDE),
      field("guidance_scale", "Guidance", number("guidance_scale", values.guidance_scale, { min: 0, max: limits.guidance_scale, step: 0.1, curve: 2 }), WIDE),
      field("sampler", "Sampler", select("sampler", samplers, values.sampler)),
      field("spacing", "Spacing", select("spacing", [], values.spacing)),
      field("eta", "Eta", number("eta", values.eta, { min: 0, max: 1, step: 0.05 })),
      sizes && field("width", "Width", number("width", values.width, side)),
      sizes && field("height", "Height", number("height", values.height, side)),
      field("seed", "Seed", digits("seed", values.seed, iconButton("lock", "Keep this seed", LOCK, locked), iconButton("dice", "Another seed", DICE)), WIDE),
      prompts?.clip_skip > 0 &&
        field("clip_skip", "Clip skip", number("clip_skip", values.clip_skip, { min: 0, max: prompts.clip_skip }), WIDE),
      field("n", "Pictures", number("n", values.n, { min: 1, max: limits.n }), WIDE),
    ].filter(Boolean);
  }

  /** Offer what the sampler can do. */
  #adapt() {
    const spacing = this.#input("spacing");
    const sampler = samplerOf(this.#model, { sampler: this.#input("sampler").value });
    const kept = this.kept.values[this.#model.name]?.spacing ?? this.#model.defaults.spacing;
    const wanted = spacing.value || kept;
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

  #changed(target) {
    if (!this.#model) return;
    if (target?.name === "model" && target.value !== this.#model.name) {
      return this.#choose(target.value);
    }
    if (target?.name === "sampler") this.#adapt();
    target?.removeAttribute("aria-invalid");
    this.kept.model = this.#model.name;
    this.kept.values[this.#model.name] = { ...this.#values(), ...this.#extra };
    keep(KEPT, this.kept);
    this.#cost();
    this.#dispatch("input", this.settings);
  }

  #choose(name) {
    const model = this.#models.find((each) => each.name === name);
    const values = this.#values();
    const taken = ACROSS.filter((each) => values[each] !== undefined).map((k) => [k, values[k]]);
    this.#build(model, { ...this.kept.values[name], ...Object.fromEntries(taken) });
    this.#changed();
    this.#input("model").focus();
  }

  #cost() {
    const { evaluations, seconds } = costOf(this.#model, this.settings);
    if (!Number.isFinite(evaluations)) return;
    const words = evaluations === 1 ? "evaluation" : "evaluations";
    const time = seconds === null ? "" : `, about ${inSeconds(seconds)} if nobody else draws`;
    this.root.querySelector("#cost").textContent = `${evaluations} ${words}${time}`;
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
