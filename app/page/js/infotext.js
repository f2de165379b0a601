/**
 * The text in a picture -> settings. The text is as AUTOMATIC1111 writes it, and as this service
 * does (app/files/parameters.py): the prompt or the class, the negative prompt, and a last line of
 * `Name: value` pairs.
 */

import { checked } from "./fields.js";
import { parametersOf, UnreadablePicture } from "./png.js";

const PAIR = /([^:,"]{1,80}):\s*("(?:[^"\\]|\\[^])*"|[^,]*)(?:,|$)/g;
const NEGATIVE = /(?:^|\n)Negative prompt: ?/;
const ESCAPED = /(^|\n)\\(\\*)(?=Negative prompt:)/g; // a prompt's own line that begins so
const LONGEST_TOLD = 40; // characters of what a picture says

/**
 * Settings of a picture's file.
 *
 * @param {Blob} blob - A PNG, JPEG or WebP.
 * @param {object[]} models - `models` of `GET /models`, the default first.
 * @returns {Promise<{settings: object, notes: string[], text: string}>} The settings, what of the
 *   text they do not say (for people), and the text.
 * @throws {UnreadablePicture} It has no parameters that can be read.
 */
export async function settingsOfPicture(blob, models) {
  const text = await parametersOf(blob);
  return { ...settingsOfText(text, models), text };
}

/**
 * Settings of a text.
 *
 * @param {string} text - As a picture has it.
 * @param {object[]} models - `models` of `GET /models`, the default first.
 * @returns {{settings: object, notes: string[]}} The settings, and what they do not say.
 * @throws {UnreadablePicture} It is no such text.
 */
export function settingsOfText(text, models) {
  const { lines, pairs } = taken(text);
  if (!pairs.has("Steps")) {
    throw new UnreadablePicture("What this picture says of itself has no steps in it.");
  }
  const notes = [];
  const model = modelOf(pairs, models, notes);
  const { settings, wrong } = checked({
    model: model?.name,
    ...subjectOf(lines, model, pairs, notes),
    steps: pairs.get("Steps"),
    ...samplerOf(pairs, model, notes),
    guidance_scale: pairs.get("CFG scale"),
    guidance_interval: pairs.get("Guidance interval")?.replace("-", ","),
    seed: pairs.get("Seed"),
    ...sizeOf(pairs, model, notes),
  });
  for (const [name, why] of Object.entries(wrong)) notes.push(`${name} ${why}`);
  return { settings, notes };
}

/** The first lines, and the pairs of the last. */
function taken(text) {
  const whole = text.trimEnd();
  const end = whole.lastIndexOf("\n");
  const pairs = new Map();
  for (const [, name, value] of whole.slice(end + 1).matchAll(PAIR)) {
    pairs.set(name.trim(), unquoted(value.trim()));
  }
  return { lines: end < 0 ? "" : whole.slice(0, end), pairs };
}

function unquoted(value) {
  if (!value.startsWith('"')) return value;
  try {
    return String(JSON.parse(value));
  } catch {
    return value.replace(/^"|"$/g, "");
  }
}

/** The model that drew it, or else the default one. */
function modelOf(pairs, models, notes) {
  const name = pairs.get("Model");
  const hash = pairs.get("Model hash");
  const named = models.find((model) => model.name === name);
  const found = named ?? models.find((model) => hash && model.hash === hash);
  if (!found && (name || hash)) notes.push(`model ${told(name ?? hash)} is not here`);
  if (found?.hash && hash && found.hash !== hash) {
    notes.push(`model ${told(found.name)} has another checkpoint here`);
  }
  return found ?? models.find((model) => model.default) ?? models[0];
}

/** The class, or the prompts, in the words of a request. */
function subjectOf(lines, model, pairs, notes) {
  const split = NEGATIVE.exec(lines);
  const prompt = unescaped(split ? lines.slice(0, split.index) : lines);
  const negative = unescaped(split ? lines.slice(split.index + split[0].length) : "");
  if (!model?.takes || model.takes.includes("prompt")) {
    const layers = Number(pairs.get("Clip skip") ?? 1);
    return { prompt, negative_prompt: negative, clip_skip: layers > 1 ? layers - 1 : undefined };
  }
  if (negative) notes.push(`model ${told(model.name)} takes no negative prompt`);
  if (!prompt) return {};
  if (model.classes.includes(prompt)) return { class: prompt };
  notes.push(`model ${told(model.name)} has no class ${told(prompt)}`);
  return {};
}

function unescaped(text) {
  return text.replace(ESCAPED, "$1$2");
}

/** The sampler and the spacing, by the model's titles of them; a title may end in the spacing. */
function samplerOf(pairs, model, notes) {
  const title = pairs.get("Sampler");
  const samplers = model?.samplers ?? [];
  if (!title || !samplers.length) return {};
  const [, bare, ending] = /^(.*?)(?: (karras|exponential|uniform))?$/is.exec(title);
  const found = samplers.find((sampler) =>
    [sampler.title, sampler.name].some((name) => name.toLowerCase() === bare.toLowerCase()),
  );
  if (!found) {
    notes.push(`sampler ${told(title)} is not here`);
    return {};
  }
  const asked = (ending ?? pairs.get("Schedule type") ?? "default").toLowerCase();
  const spacing = found.spacings.includes(asked) ? asked : "default";
  return {
    sampler: found.name,
    spacing: asked === "automatic" ? undefined : spacing,
    eta: found.eta ? pairs.get("Eta") : undefined,
  };
}

function sizeOf(pairs, model, notes) {
  const [width, height] = (pairs.get("Size") ?? "").split("x", 2);
  const fixed = model?.width && !model.sizes;
  if (!fixed || !width || (Number(width) === model.width && Number(height) === model.height)) {
    return { width, height };
  }
  notes.push(`model ${told(model.name)} draws ${model.width}x${model.height} only`);
  return {};
}

function told(text) {
  const line = text.replace(/[\p{C}\p{Z}]+/gu, " ");
  return line.length > LONGEST_TOLD ? `${line.slice(0, LONGEST_TOLD)}…` : line;
}
