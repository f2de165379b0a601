/** What is told of an entry: names and values. */

import { element } from "./controls.js";
import { inSeconds, titleOf } from "./models.js";
import { drawnWith, settingsOf } from "./pictures.js";

/**
 * The settings that made a picture, as they were used.
 *
 * @param {object} entry of the history.
 * @param {object|undefined} model of `GET /models`; undefined if the service does not have it.
 * @returns {[string, string|number][]} name and value; those that it does not have are left out.
 */
export function settingsFacts(entry, model) {
  const { width, height } = entry;
  const settings = drawnWith(entry);
  const [start, end] = settings.guidance_interval ?? [];
  return present([
    ["Model", settings.model],
    ["Class", settings.class === null ? "any" : settings.class],
    ["Prompt", settings.prompt],
    ["Negative prompt", settings.negative_prompt],
    ["Clip skip", settings.clip_skip || null],
    ["Steps", settings.steps],
    ["Sampler", titleOf(model, settings.sampler)],
    ["Spacing", settings.spacing],
    ["Guidance", settings.guidance_scale],
    ["Guided", end === undefined ? null : `from ${start} to ${end} of the steps`],
    ["Eta", settings.eta],
    ["Seed", settingsOf(entry).seed],
    ["Size", width && `${width} × ${height}`],
  ]);
}

/** The settings of an entry, how long it took and when it was made; as `settingsFacts`. */
export function factsOf(entry, model) {
  return present([
    ...settingsFacts(entry, model),
    ["Time", entry.seconds && inSeconds(entry.seconds)],
    ["Made", entry.created && new Date(entry.created).toLocaleString()],
  ]);
}

/** Facts as elements of a `<dl>`. */
export function listed(facts) {
  return facts.flatMap(([name, value]) => [
    element("dt", {}, name),
    element("dd", {}, `${value}`),
  ]);
}

function present(facts) {
  return facts.filter(([, value]) => value !== undefined && value !== null && value !== "");
}
