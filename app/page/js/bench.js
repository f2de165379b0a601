/** The fields of a model's form, by what the model allows. */

import {
  classes,
  digits,
  element,
  field,
  iconButton,
  number,
  select,
  textarea,
} from "./controls.js";

const WIDE = { wide: true };
const DICE =
  "M6 4.5h12A1.5 1.5 0 0 1 19.5 6v12a1.5 1.5 0 0 1-1.5 1.5H6A1.5 1.5 0 0 1 4.5 18V6" +
  "A1.5 1.5 0 0 1 6 4.5zM9 9v.01M15 15v.01M12 12v.01M15 9v.01M9 15v.01";
const LOCK = "M6.5 11h11v8.5h-11zM9 11V8a3 3 0 0 1 6 0v3";

/**
 * The fields of a form.
 *
 * @param {object} model of the form.
 * @param {[string, string][]} choices names of models to choose from, and what is shown of each.
 * @param {object} values of the fields, by name; what a model does not take is left out.
 * @param {boolean} locked whether the seed stays as it is.
 * @returns {HTMLElement[]}
 */
export function fieldsOf(model, choices, values, locked) {
  const { limits } = model;
  const steps = { min: 1, max: limits.steps, curve: 3 };
  const eta = { min: 0, max: 1, step: 0.05 };
  const samplers = model.samplers.map((each) => [each.name, each.title]);
  return [
    choices.length > 1 ? modelField(model, choices) : onlyModel(model),
    ...(model.prompts ? promptFields(model, values) : [classes(model, values.class, null)]),
    field("steps", "Steps", number("steps", values.steps, steps), WIDE),
    guidanceField(values.guidance_scale, limits.guidance_scale),
    ...(values.guidance_interval ? [intervalNote(values.guidance_interval)] : []),
    field("sampler", "Sampler", select("sampler", samplers, values.sampler)),
    field("spacing", "Spacing", select("spacing", [], values.spacing)),
    field("eta", "Eta", number("eta", values.eta, eta)),
    ...(model.sizes ? sizeFields(model, values) : []),
    seedField(values.seed, locked),
    field("n", "Pictures", number("n", values.n, { min: 1, max: limits.n }), WIDE),
  ];
}

function modelField(model, choices) {
  return field("model", "Model", select("model", choices, model.name), WIDE);
}

function onlyModel({ name }) {
  return element("p", { class: "field wide only" }, "Model", element("b", {}, name));
}

function guidanceField(value, max) {
  const control = number("guidance_scale", value, { min: 0, max, step: 0.1, curve: 2 });
  return field("guidance_scale", "Guidance", control, { wide: true, hint: "needs a class" });
}

function promptFields(model, values) {
  const { characters: maxlength, clip_skip: layers } = model.prompts;
  const prompt = textarea("prompt", values.prompt, { maxlength, rows: 3 });
  const negative = textarea("negative_prompt", values.negative_prompt, { maxlength, rows: 2 });
  const skip = () => number("clip_skip", values.clip_skip, { min: 0, max: layers });
  return [
    field("prompt", "Prompt", prompt, WIDE),
    field("negative_prompt", "Negative prompt", negative, WIDE),
    ...(layers ? [field("clip_skip", "Clip skip", skip(), WIDE)] : []),
  ];
}

function sizeFields(model, values) {
  const { least: min, most: max, step } = model.sizes;
  return [
    field("width", "Width", number("width", values.width, { min, max, step })),
    field("height", "Height", number("height", values.height, { min, max, step })),
  ];
}

function seedField(seed, locked) {
  const lock = iconButton("lock", "Keep this seed", LOCK, locked);
  const dice = iconButton("dice", "Another seed", DICE);
  return field("seed", "Seed", digits("seed", seed, lock, dice), WIDE);
}

/** A setting that a picture or a link brought along, and that has no field of its own. */
function intervalNote([start, end]) {
  const words = `Guided from ${start} to ${end} of the steps only. `;
  const button = element("button", { type: "button", "data-act": "whole" }, "Guide all");
  return element("p", { class: "field wide aside" }, words, button);
}
