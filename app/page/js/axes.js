/** What can vary along an axis of a contact sheet, the values that were typed, and bounds. */

import { WrongValue, checked } from "./fields.js";
import { samplerOf } from "./models.js";

/** Pictures of a sheet, at most. */
export const MOST = 100;

const NUMBER = "(\\d+(?:\\.\\d*)?|\\.\\d+)";
const BY = `\\(\\s*([+-]\\s*(?:\\d+(?:\\.\\d*)?|\\.\\d+))\\s*\\)`;
const RANGE = new RegExp(`^${NUMBER}\\s*-\\s*${NUMBER}\\s*(?:${BY}|\\[\\s*(\\d+)\\s*\\])?$`);

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
 * @param {object} model of `GET /models`.
 * @param {object} settings of the form.
 * @returns {string|string[]}
 */
export function firstOf(axis, { limits, defaults }, settings) {
  if (axis.kind === "choices") return axis.choices.slice(0, 10);
  const typed = (values) => [...new Set(values.filter((each) => each <= axis.most))].join(", ");
  const { seed, prompt } = settings;
  const most = Math.min(50, limits.steps);
  const own = defaults.guidance_scale === 1 ? 1.5 : defaults.guidance_scale;
  const first = {
    steps: typed([0.2, 0.4, 1].map((part) => Math.ceil(part * most))),
    guidance_scale: typed([1, own, Math.round(2 * own)]),
    seed: typed([seed, seed + 1, seed + 2]),
    eta: "0, 0.5, 1",
    prompt,
  };
  return first[axis.name] ?? "";
}

/** What an axis allows, in words. */
export function allowedOf({ kind, label, least, most, whole, characters }) {
  if (kind === "choices") return "Choose at least one.";
  if (kind === "lines") return `One a line, of at most ${characters} characters.`;
  return `${label}: ${whole ? "whole numbers" : "numbers"} from ${least} to ${most}.`;
}

/**
 * The values of an axis.
 *
 * @param {object} axis of `axesOf`.
 * @param {string|Array} typed a text, or what was chosen of its choices.
 * @returns {Array<number|string>} in order.
 * @throws {WrongValue} the message says what is wrong and what is allowed.
 */
export function valuesOf(axis, typed) {
  const read = { numbers: numbersOf, lines: linesOf, choices: chosenOf };
  const values = read[axis.kind](axis, typed);
  if (!values.length) {
    const none = axis.kind === "choices" ? "Nothing is chosen." : "There is no value.";
    throw new WrongValue(`${none} ${allowedOf(axis)}`);
  }
  const twice = values.findIndex((each, index) => values.indexOf(each) !== index);
  if (twice >= 0) throw new WrongValue(`${wordsOf(values[twice])} is there twice.`);
  return bounded(values.length, values);
}

/** A value of an axis, in words. */
export function wordsOf(value) {
  return value === null ? "any" : value === "" ? "no prompt" : `${value}`;
}

/**
 * The settings of one picture of a sheet.
 *
 * What the sampler does not take is left out, unless it varies: then the picture is impossible.
 *
 * @param {object} model of `GET /models`.
 * @param {object} settings that all pictures share.
 * @param {object} varied settings of this one, by name.
 * @returns {{settings: object, impossible: string}} why there is no such picture, or "".
 */
export function cellOf(model, settings, varied) {
  const cell = { ...settings, ...varied, n: 1 };
  const sampler = samplerOf(model, cell);
  const taken = { eta: sampler.eta, spacing: sampler.spacings.length > 1 };
  let impossible = "";
  for (const [name, takes] of Object.entries(taken)) {
    if (takes) continue;
    const none = name === "eta" ? 0 : sampler.spacings[0];
    if (name in varied && varied[name] !== none) {
      impossible = `${sampler.name} has no ${name} ${varied[name]}`;
    }
    delete cell[name];
  }
  return { settings: cell, impossible };
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

function numbersOf(axis, typed) {
  const parts = typed.split(/[,;\n]/).map((each) => each.trim());
  return parts.filter(Boolean).flatMap((part) => {
    const range = part.match(RANGE);
    const found = range ? rangeOf(axis, part, range) : [part];
    return found.map((each) => numberOf(axis, part, each));
  });
}

function numberOf(axis, part, value) {
  const { settings, wrong } = checked({ [axis.name]: value });
  const number = settings[axis.name];
  if (wrong[axis.name] || number < axis.least || number > axis.most) {
    throw new WrongValue(`${part} is not allowed. ${allowedOf(axis)}`);
  }
  return number;
}

/** The numbers of `1-9`, `10-50 (+10)`, `50-10 (-10)` or `0-1 [5]`, which is five numbers. */
function rangeOf(axis, part, [, first, last, by, count]) {
  const [start, end] = [Number(first), Number(last)];
  if (count !== undefined) {
    const times = bounded(Number(count), Number(count));
    const apart = (end - start) / Math.max(times - 1, 1);
    const round = axis.whole ? Math.round : rounded;
    return Array.from({ length: times }, (_, index) => round(start + index * apart));
  }
  const step = by === undefined ? Math.sign(end - start) || 1 : Number(by.replace(/\s/g, ""));
  const times = Math.floor(rounded((end - start) / step)) + 1;
  if (!(times >= 1) || !Number.isFinite(times)) {
    throw new WrongValue(`${part} never gets from ${start} to ${end}.`);
  }
  bounded(times, null);
  const round = axis.whole ? Number : rounded; // seeds have more digits than rounding leaves
  return Array.from({ length: times }, (_, index) => round(start + index * step));
}

/** Without what binary fractions add: 0.1 + 0.2 is 0.3. */
function rounded(number) {
  return Number(number.toPrecision(12));
}

function bounded(count, values) {
  if (count <= MOST) return values;
  throw new WrongValue(`These are ${count} values; a sheet has at most ${MOST} pictures.`);
}

function linesOf(axis, typed) {
  const lines = typed.split("\n").map((each) => each.trim());
  return lines.filter(Boolean).map((line) => {
    const { wrong } = checked({ [axis.name]: line });
    const why = [...line].length > axis.characters ? allowedOf(axis) : wrong[axis.name];
    if (why) throw new WrongValue(`"${line.slice(0, 20)}…": ${why}`);
    return line;
  });
}

function chosenOf(axis, chosen) {
  return axis.choices.filter((each) => chosen.includes(each));
}
