/** The page: services are made here and given to the views, and the views are joined. */

import { Album } from "./album.js";
import { Api } from "./api.js";
import { Form } from "./form.js";
import { Found } from "./found.js";
import { History } from "./history.js";
import { listen } from "./hotkeys.js";
import { Jobs } from "./jobs.js";
import { KeyRing } from "./key.js";
import { linkOf, settingsOf as settingsOfLink } from "./link.js";
import { loadModels, subjectOf } from "./models.js";
import { showTitle, startNotifications, Voice } from "./notices.js";
import { copyText, permalink, settingsOf, thumbnail } from "./pictures.js";
import { Prints } from "./prints.js";
import { Programs } from "./programs.js";
import { watch } from "./status.js";
import { startTheme } from "./theme.js";
import { download, Viewer } from "./viewer.js";
import { startViews } from "./views.js";

const RESTORED = 24; // prints that hang on the line after a reload

const at = (id) => document.getElementById(id);
const keys = new KeyRing(at("keys"));
const api = new Api(keys);
const jobs = new Jobs(api);
const voice = new Voice(at("said"));
const say = (text) => voice.say(text);
let models = [];

const history = await History.open();
const form = new Form(at("form"), sheetOf);
const modelOf = (name) => models.find((each) => each.name === name);
const prints = new Prints(at("line"), at("empty"), api, modelOf);
const viewer = new Viewer(at("viewer"), api);
const album = new Album(at("view-history"), history);
const found = new Found(at("found"), () => models);
const programs = new Programs(at("programs"));
const toggleTheme = startTheme(at("theme"));
const notify = startNotifications(at("notify"), say);
const showView = startViews(at("views"), { history: () => album.show() });

/** The address of a picture with one sample of each class, or null. */
async function sheetOf(model) {
  if (!model.class_sheet) return null;
  return api.picture(`models/${encodeURIComponent(model.name)}/classes.png`).catch(() => null);
}

/** What can be done with an entry, wherever it is shown. */
const ACTS = {
  async star(entry) {
    entry.starred = !entry.starred;
    prints.of(entry)?.star();
    viewer.star();
    await history.star(entry.id, entry.starred);
  },
  async delete(entry) {
    const print = prints.of(entry);
    if (viewer.entry) viewer.remove(entry);
    if (print) prints.remove(print);
    await history.delete(entry.id);
    if (!at("view-history").hidden) await album.show();
    say("Deleted.");
  },
  restore(entry) {
    viewer.dialog.close();
    restore(settingsOf(entry));
  },
  seed(entry) {
    viewer.dialog.close();
    form.reuse(settingsOf(entry).seed);
  },
  download: (entry) => download(api, entry).catch((error) => say(error.message)),
  link: (entry) => copyLink(settingsOf(entry)),
  code: (entry) => programs.show(settingsOf(entry), Boolean(keys.key)),
  cancel: (entry) => jobs.cancel(jobs.open.find((job) => entry.id.startsWith(job.key))),
  open(entry) {
    const entries = prints.finished.map((print) => print.entry);
    viewer.open(entries, entries.indexOf(entry));
  },
};

function restore(settings) {
  const known = form.restore(settings);
  const missing = `The service has no model ${settings.model}; the other settings are here.`;
  say(known || !settings.model ? "These settings are in the form." : missing);
}

async function copyLink(settings) {
  try {
    const link = linkOf(settings, location.href);
    await copyText(link, at("programs-text"));
    say("The link is copied. It fills the form, and draws nothing by itself.");
  } catch (error) {
    say(error.message);
  }
}

/** Keep a picture that is new in the history. */
async function remember(print) {
  const { entry, image } = print;
  entry.thumbnail = thumbnail(image);
  entry.url = (await permalink(api, settingsOf(entry))) ?? entry.url;
  if (!(await history.get(entry.id))) await history.put({ ...entry });
}

form.addEventListener("develop", ({ detail: settings }) => {
  keys.allow();
  showView("prints");
  prints.add(jobs.submit(settings));
  at("line").scrollTo({ left: 0, behavior: "smooth" });
  say(`Developing ${subjectOf(settings)}.`);
});

jobs.addEventListener("change", ({ detail: job }) => {
  prints.follow(job);
  showTitle(jobs.open);
  if (job.status === "refused") form.refuse(job.problem);
  if (!job.over || job.status === "refused") return;
  const ends = { succeeded: "is done", failed: `failed: ${job.note}`, canceled: "was cancelled" };
  const end = `${subjectOf(job.settings)} ${ends[job.status]}.`;
  const { count, bytes } = job.previews;
  const size = bytes < 1024 ? `${bytes} B` : `${Math.round(bytes / 1024)} KB`;
  say(count ? `${end} Previews: ${count}, ${size}, no evaluations.` : end);
  if (!jobs.open.length) notify(end);
});
jobs.addEventListener("preview", ({ detail }) => prints.preview(detail));

prints.addEventListener("act", ({ detail: { act, print } }) => ACTS[act](print.entry));
prints.addEventListener("finished", ({ detail: print }) => remember(print));
viewer.addEventListener("act", ({ detail: { act, entry } }) => ACTS[act](entry));
album.addEventListener("open", ({ detail: { entries, at: which } }) => viewer.open(entries, which));
found.addEventListener("apply", ({ detail: settings }) => restore(settings));
found.addEventListener("look", ({ detail: entry }) => viewer.open([entry], 0));
found.watch(document);

for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
const showHotkeys = () => at("hotkeys").showModal();
at("help").addEventListener("click", showHotkeys);
at("link").addEventListener("click", () => copyLink(form.settings));
at("code").addEventListener("click", () => programs.show(form.settings, Boolean(keys.key)));
at("pick").addEventListener("click", () => at("file").click());
at("file").addEventListener("change", ({ target }) => {
  if (target.files.length) found.show(target.files[0]);
  target.value = "";
});
listen(
  [
    { key: "Mod+Enter", words: "Develop", act: () => form.develop(), always: true },
    { key: "r", words: "Another seed", act: () => form.roll() },
    { key: "l", words: "Lock the seed, or let it change", act: () => form.lock(!form.locked) },
    { key: "c", words: "Cancel what was asked for last", act: () => cancelLast() },
    { key: "o", words: "Open the newest picture", act: () => openNewest() },
    { key: "p", words: "Prints", act: () => showView("prints") },
    { key: "h", words: "History", act: () => showView("history") },
    { key: "d", words: "Darkroom or daylight", act: toggleTheme },
    { key: "?", words: "This list", act: showHotkeys },
  ],
  at("hotkeys-list"),
);

function cancelLast() {
  const last = jobs.open.at(-1);
  if (last) jobs.cancel(last);
}

function openNewest() {
  const [newest] = prints.finished;
  if (newest) ACTS.open(newest.entry);
}

/** Fill the form with what the address says; the address is short again then. */
function restoreLink() {
  const { settings, wrong } = settingsOfLink(location.search);
  if (!location.search) return;
  window.history.replaceState(null, "", location.pathname);
  if (Object.keys(settings).length) restore(settings);
  const told = Object.entries(wrong).map(([name, why]) => `${name} ${why}`);
  if (told.length) say(`The link is not quite right: ${told.join("; ")}.`);
}

async function showModels() {
  models = await loadModels(api, (error) => say(error.message));
  form.show(models);
}

await showModels();
restoreLink();
for (const job of jobs.start()) prints.add(job);
const { entries } = await history.search({}, { limit: RESTORED });
await prints.restore(entries);
showTitle(jobs.open);
watch(api, { corner: at("service"), away: at("away") }, () => jobs.open.length > 0, showModels);
