/** What can vary along an axis of a contact sheet. */

import { titleOf } from "./models.js";

/**
 * What can vary, by what a model takes.
 *
 * @param {object} model of `GET /models`.
 * @returns {object[]} axes: `{name, label, kind}`, and by kind: `numbers` have `least`, `most` and
 *   `whole`; `choices` have `choices`; `lines` have `characters`.
 */
export function axesOf(model) {
  const { limits, samplers } = model;
  const seeds = Math.min(limits.seed, Number.MAX_SAFE_INTEGER);
  const spacings = [...new Set(samplers.flatMap((each) => each.spacings))];
  const axes = [
    { name: "steps", label: "Steps", ...numbers(1, limits.steps, true) },
    { name: "guidance_scale", label: "Guidance", ...numbers(0, limits.guidance_scale, false) },
    { name: "sampler", label: "Sampler", ...choices(samplers.map((each) => each.name)) },
    { name: "seed", label: "Seed", ...numbers(0, seeds, true) },
    subjectAxis(model),
    { name: "eta", label: "Eta", ...numbers(0, 1, false) },
    { name: "spacing", label: "Spacing", ...choices(spacings) },
  ];
  const eta = samplers.some((each) => each.eta);
  return axes.filter((each) => (each.choices?.length ?? 2) > 1 && (eta || each.name !== "eta"));
}

/**
 * What is in an axis when it is first chosen, as it would be typed.
 *
 * @param {object} axis of `axesOf`.
 * @param {number} room for so many values.
 * @param {object} model of `GET /models`.
 * @param {object} settings of the form.
 * @returns {string|string[]}
 */
export function firstOf(axis, room, { limits, defaults }, settings) {
  if (axis.kind === "choices") return axis.choices.slice(0, room);
  const typed = (values) => [...new Set(values.filter((each) => each <= axis.most))].join(", ");
  const { seed, prompt } = settings;
  const most = Math.min(50, limits.steps);
  const own = defaults.guidance_scale === 1 ? 1.5 : defaults.guidance_scale;
  const first = {
    steps: typed([0.2, 0.4, 1].map((part) => Math.ceil(part * most))),
    guidance_scale: typed([1, own, Math.round(2 * own)]),
    seed: typed([seed, seed + 1, seed + 2]),
    eta: "0, 0.5, 1",
    prompt: prompt?.replace(/\s+/g, " "),
  };
  return first[axis.name] ?? "";
}

/** What an axis allows, in words. */
export function allowedOf({ kind, label, least, most, whole, characters }) {
  if (kind === "choices") return "Choose at least one.";
  if (kind === "lines") return `One a line, of at most ${characters} characters.`;
  return `${label}: ${whole ? "whole numbers" : "numbers"} from ${least} to ${most}.`;
}

/** A value of a setting, in words. */
export function wordsOf(name, value, model) {
  if (name === "sampler") return titleOf(model, value);
  return value === null ? "any" : value === "" ? "no prompt" : `${value}`;
}

function numbers(least, most, whole) {
  return { kind: "numbers", least, most, whole };
}

function choices(values) {
  return { kind: "choices", choices: values };
}

function subjectAxis(model) {
  if (model.prompts) {
    return { name: "prompt", label: "Prompt", kind: "lines", characters: model.prompts.characters };
  }
  return { name: "class", label: "Class", ...choices(model.classes) };
}
