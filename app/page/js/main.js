/** The page: services are made here, given to the views, and the views joined. */

import { Api } from "./api.js";
import { Form } from "./form.js";
import { listen } from "./hotkeys.js";
import { Jobs } from "./jobs.js";
import { KeyRing } from "./key.js";
import { loadModels, subjectOf } from "./models.js";
import { showTitle, startNotifications, Voice } from "./notices.js";
import { settingsOf } from "./pictures.js";
import { Prints } from "./prints.js";
import { watch } from "./status.js";
import { startTheme } from "./theme.js";
import { download, Viewer } from "./viewer.js";

const at = (id) => document.getElementById(id);
const keys = new KeyRing(at("keys"));
const api = new Api(keys);
const jobs = new Jobs(api);
const voice = new Voice(at("said"));
const say = (text) => voice.say(text);
let models = [];

const form = new Form(at("form"), sheetOf);
const modelOf = (name) => models.find((each) => each.name === name);
const prints = new Prints(at("line"), at("empty"), api, modelOf);
const viewer = new Viewer(at("viewer"), api);
const toggleTheme = startTheme(at("theme"));
const notify = startNotifications(at("notify"), say);

/** The address of a picture with one sample of each class, or null. */
async function sheetOf(model) {
  if (!model.class_sheet) return null;
  return api.picture(`models/${encodeURIComponent(model.name)}/classes.png`).catch(() => null);
}

const ACTS = {
  open: (print) => viewer.open(prints.finished.map((each) => each.entry), prints.finished.indexOf(print)),
  cancel: (print) => jobs.cancel(jobs.open.find((job) => print.entry.id.startsWith(job.key))),
  star: (print) => star(print.entry),
  restore: (print) => restore(settingsOf(print.entry)),
  download: (print) => download(api, print.entry).catch((error) => say(error.message)),
  delete: (print) => remove(print.entry),
};

function star(entry) {
  entry.starred = !entry.starred;
  prints.finished.find((each) => each.entry === entry)?.star();
  viewer.star();
}

function remove(entry) {
  const print = prints.finished.find((each) => each.entry === entry);
  if (viewer.entry) viewer.remove(entry);
  if (print) prints.remove(print);
  say("Deleted.");
}

function restore(settings) {
  const known = form.restore(settings);
  const missing = `The service has no model ${settings.model}; the other settings are here.`;
  say(known ? "These settings are in the form, with the seed locked." : missing);
}

form.addEventListener("develop", ({ detail: settings }) => {
  keys.allow();
  const job = jobs.submit(settings);
  prints.add(job);
  at("line").scrollTo({ left: 0, behavior: "smooth" });
  say(`Developing ${subjectOf(settings)}.`);
});

jobs.addEventListener("change", ({ detail: job }) => {
  prints.follow(job);
  showTitle(jobs.open);
  if (job.status === "refused") form.refuse(job.problem);
  if (!job.over || job.status === "refused") return;
  const words = { succeeded: "is done", failed: `failed: ${job.note}`, canceled: "was cancelled" };
  const { count, bytes } = job.previews;
  const size = bytes < 1024 ? `${bytes} B` : `${Math.round(bytes / 1024)} KB`;
  const cost = count ? ` Previews: ${count}, ${size}, no evaluations.` : "";
  say(`${subjectOf(job.settings)} ${words[job.status]}.${cost}`);
  if (!jobs.open.length) notify(`${subjectOf(job.settings)} ${words[job.status]}.`);
});
jobs.addEventListener("preview", ({ detail }) => prints.preview(detail));

prints.addEventListener("act", ({ detail: { act, print } }) => ACTS[act](print));
viewer.addEventListener("act", ({ detail: { act, entry } }) => {
  if (act === "star") star(entry);
  if (act === "delete") remove(entry);
  if (act === "restore") restore(settingsOf(entry));
  if (act === "seed") form.reuse(settingsOf(entry).seed);
  if (act === "restore" || act === "seed") viewer.dialog.close();
});

for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
const showHotkeys = () => at("hotkeys").showModal();
at("help").addEventListener("click", showHotkeys);
listen(
  [
    { key: "Mod+Enter", words: "Develop", act: () => form.develop(), always: true },
    { key: "r", words: "Another seed", act: () => form.roll() },
    { key: "l", words: "Lock the seed, or let it change", act: () => form.lock(!form.locked) },
    { key: "c", words: "Cancel what was asked for last", act: () => jobs.open.length && jobs.cancel(jobs.open.at(-1)) },
    { key: "o", words: "Open the newest picture", act: () => prints.finished.length && ACTS.open(prints.finished[0]) },
    { key: "d", words: "Darkroom or daylight", act: toggleTheme },
    { key: "?", words: "This list", act: showHotkeys },
  ],
  at("hotkeys-list"),
);

async function showModels() {
  models = await loadModels(api, (error) => say(error.message));
  form.show(models);
}

await showModels();
for (const job of jobs.start()) prints.add(job);
showTitle(jobs.open);
watch(api, { corner: at("service"), away: at("away") }, () => jobs.open.length > 0, showModels);
