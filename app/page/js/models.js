/** Models as `GET /models` tells them, and what follows from them for settings and words. */

import { pause } from "./stream.js";

const LONGEST = 80; // characters of a prompt within a sentence

/**
 * The models of the service; asks again until it knows what one of them takes.
 *
 * @param {import("./api.js").Api} api
 * @param {(error: Error) => void} failed is told of each failure.
 * @returns {Promise<{models: object[], others: string[]}>} models, the default one first, and the
 *   names of those that were never loaded: what they take is not known.
 */
export async function loadModels(api, failed) {
  for (let wait = 1000; ; wait = Math.min(2 * wait, 8000)) {
    try {
      const all = (await api.json("models")).models;
      const models = all.filter((each) => each.defaults);
      const others = all.filter((each) => !each.defaults).map((each) => each.name);
      models.sort((a, b) => b.default - a.default);
      if (models.length) return { models, others };
    } catch (error) {
      failed(error);
    }
    await pause(wait);
  }
}

/**
 * Have a model loaded, by asking for a picture of it without its pixels.
 *
 * @param {import("./api.js").Api} api
 * @param {string} name
 * @returns {Promise<string|null>} why it does not load; null if it did.
 */
export async function loadModel(api, name) {
  const query = new URLSearchParams({ model: name });
  try {
    await api.request(`generate?${query}`, { method: "HEAD" });
    return null;
  } catch (error) {
    return (await whyNotLoaded(api, name)) || error.message;
  }
}

/** Why a model is not loaded, as far as the service says; "" if nothing is wrong with it. */
export async function whyNotLoaded(api, name) {
  const unknown = { models: [{ name }], failed: [] };
  const { models, failed } = await api.json("models").catch(() => unknown);
  const found = [...failed, ...models].find((each) => each.name === name);
  return found ? (found.reason ?? "") : "the service has it no longer";
}

/** The settings that a request of this model has if nothing is said. */
export function defaultsOf(model) {
  const { steps, sampler, spacing, guidance_scale, eta, n } = model.defaults;
  const taken = model.prompts
    ? { prompt: "", negative_prompt: "", clip_skip: 0 }
    : { class: model.class_required ? model.classes[0] : null };
  const size = model.sizes ? { width: model.width, height: model.height } : {};
  return { model: model.name, ...taken, steps, sampler, spacing, guidance_scale, eta, n, ...size };
}

/** The sampler that settings name; the model's default if they name none. */
export function samplerOf(model, settings) {
  const name = settings.sampler ?? model.defaults.sampler;
  return model.samplers.find((each) => each.name === name) ?? model.samplers[0];
}

/** What people call a sampler; its name where no model tells, such as one that is gone. */
export function titleOf(model, sampler) {
  return model?.samplers.find((each) => each.name === sampler)?.title ?? sampler;
}

/** The size of a picture, in pixels: [width, height]. */
export function sizeOf(model, entry) {
  const side = (name) => entry[name] ?? entry.settings[name] ?? model?.[name] ?? 32;
  return [side("width"), side("height")];
}

/** What a picture shows, in few words. */
export function subjectOf(settings) {
  if (settings.prompt) return settings.prompt;
  if (settings.prompt === "") return "no prompt";
  return settings.class == null ? "any class" : `${settings.class}`;
}

/** What a request draws, such as "8 pictures of class 7"; of a long prompt, the beginning. */
export function orderOf(settings) {
  const letters = [...subjectOf(settings)];
  const subject = letters.slice(0, LONGEST).join("") + (letters.length > LONGEST ? "…" : "");
  const named = settings.class == null ? subject : `class ${subject}`;
  return settings.n > 1 ? `${settings.n} pictures of ${named}` : named;
}

/**
 * A text for those who do not see the picture, made of its parameters.
 *
 * @param {object} settings of the request.
 * @param {number} image which of its pictures.
 * @param {string} state such as `finished`.
 */
export function describe(settings, image, state) {
  const what = settings.prompt === undefined ? `class ${subjectOf(settings)}` : subjectOf(settings);
  const how = `${settings.steps} steps, guidance ${settings.guidance_scale}`;
  const start = state === "finished" ? "" : `${state}: `;
  const seed = settings.seed === undefined ? "" : `seed ${settings.seed + (image ?? 0)}, `;
  return `${start}${what}, by ${settings.model}, ${seed}${how}`;
}

/**
 * What a request costs on a service that has nothing else to do.
 *
 * @returns {{evaluations: number, seconds: number|null}} evaluations of the network, of all
 *   pictures together, and roughly the seconds until the end.
 */
export function costOf(model, settings) {
  const evaluations = settings.steps * samplerOf(model, settings).evaluations_per_step;
  const guided = settings.guidance_scale !== 1 && settings.class !== null;
  const rows = settings.n * (guided ? 2 : 1);
  const ticks = model.execution.ticks;
  const own = settings.width === undefined || settings.width === model.width;
  if (!ticks?.length || !own) return { evaluations: evaluations * settings.n, seconds: null };
  const largest = ticks[ticks.length - 1];
  const tick = ticks.find((each) => each.rows >= rows) ?? largest;
  const turns = Math.ceil(rows / largest.rows);
  const seconds = (evaluations * turns * tick.milliseconds) / 1000;
  return { evaluations: evaluations * settings.n, seconds };
}

/** A time in seconds, in words. */
export function inSeconds(value) {
  return value < 10 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`;
}

/** A text as a sentence: with a capital letter, and a full stop. */
export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
