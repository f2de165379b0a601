/** The page: services are made here and given to the views, and the views are joined. */

import { Acts } from "./acts.js";
import { Album } from "./album.js";
import { Api } from "./api.js";
import { Compare } from "./compare.js";
import { Form } from "./form.js";
import { Found } from "./found.js";
import { History } from "./history.js";
import { listen } from "./hotkeys.js";
import { Jobs } from "./jobs.js";
import { KeyRing } from "./key.js";
import { settingsOf } from "./link.js";
import { loadModel, loadModels, orderOf } from "./models.js";
import { endOf, showTitle, startNotifications, Voice } from "./notices.js";
import { Prints } from "./prints.js";
import { Programs } from "./programs.js";
import { Sheet } from "./sheet.js";
import { SheetView } from "./sheet_view.js";
import { watch } from "./status.js";
import { startTheme } from "./theme.js";
import { Undo } from "./undo.js";
import { Viewer } from "./viewer.js";
import { startViews } from "./views.js";

const RESTORED = 24; // prints that hang on the line after a reload

const at = (id) => document.getElementById(id);
const keys = new KeyRing(at("keys"));
const api = new Api(keys);
const jobs = new Jobs(api);
const voice = new Voice(at("said"));
const undo = new Undo(document.querySelectorAll("[data-undo]"));
const say = (text, options) => {
  undo.end();
  voice.say(text, options);
  viewer.note(text); // what lies behind a dialog is not seen
};
let models = [];
let others = []; // names of models that were never loaded

const history = await History.open();
const form = new Form(at("form"), sheetOf);
const modelOf = (name) => models.find((each) => each.name === name);
const remember = (print) => acts.remember(print);
const prints = new Prints(at("line"), at("empty"), api, modelOf, remember);
const viewer = new Viewer(at("viewer"), api, modelOf);
const comparison = new Compare(at("compare"), api, modelOf);
const album = new Album(at("view-history"), history);
const found = new Found(at("found"), () => models);
const programs = new Programs(at("programs"));
const toggleTheme = startTheme(at("theme"));
const notify = startNotifications(at("notify"), say);
const showView = startViews(at("views"), {
  history: () => album.show(),
  sheet: () => sheetView.show(),
});

/** The address of a picture with one sample of each class, or null. */
async function sheetOf(model) {
  if (!model.class_sheet) return null;
  return api.picture(`models/${encodeURIComponent(model.name)}/classes.png`).catch(() => null);
}

const sheet = new Sheet(jobs, history, modelOf);
const views = { form, prints, viewer, comparison, album, programs };
const acts = new Acts({ api, jobs, history, sheet, ...views, showView, say, undo, loaded });
const sheetView = new SheetView(at("view-sheet"), sheet, { form, api, remember, say });

form.addEventListener("develop", ({ detail: settings }) => {
  if (document.body.dataset.shown === "sheet") return sheetView.draw();
  keys.allow();
  showView("prints");
  prints.add(jobs.submit(settings));
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const behavior = still ? "auto" : "smooth";
  at("line").firstElementChild.scrollIntoView({ block: "nearest", inline: "start", behavior });
  say(`Developing ${orderOf(settings)}.`);
});

form.addEventListener("load", async ({ detail: name }) => {
  await loaded(name);
  if (modelOf(name)) form.choose(name);
});

jobs.addEventListener("change", ({ detail: job }) => {
  prints.follow(job);
  showTitle(jobs.open);
  if (job.sheet) return;
  if (job.status === "refused") form.refuse(job.problem);
  if (!job.over || job.status === "refused") return;
  const { end, previews } = endOf(job);
  say(`${end} ${previews}`.trim());
  if (!jobs.open.length) notify(end);
});
jobs.addEventListener("preview", ({ detail }) => prints.preview(detail));

prints.addEventListener("act", ({ detail: { act, print } }) => acts[act](print.entry));
prints.addEventListener("kept", ({ detail: job }) => jobs.release(job));
viewer.addEventListener("act", ({ detail: { act, entry } }) => acts[act](entry));
comparison.addEventListener("restore", ({ detail: entry }) => acts.restore(entry));
for (const view of [album, sheetView]) {
  view.addEventListener("open", ({ detail }) => viewer.open(detail.entries, detail.at));
}
sheet.addEventListener("begin", () => keys.allow());
sheet.addEventListener("end", () => notify("The contact sheet is done."));
found.addEventListener("apply", ({ detail: settings }) => acts.apply(settings));
found.addEventListener("look", ({ detail: entry }) => viewer.open([entry], 0));
found.watch(document);

for (const button of document.querySelectorAll("[data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}
const showHotkeys = () => at("hotkeys").showModal();
at("help").addEventListener("click", showHotkeys);
at("link").addEventListener("click", () => form.check() && acts.copyLink(form.settings));
at("code").addEventListener("click", () => {
  if (form.check()) programs.show(form.settings, Boolean(keys.key));
});
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
    { key: "Arrows", words: "Previous or next picture, while one is open" },
    { key: "Escape", words: "Let go of the held picture", act: () => acts.letGo() },
    { key: "p", words: "Prints", act: () => showView("prints") },
    { key: "s", words: "Contact sheet", act: () => showView("sheet") },
    { key: "h", words: "History", act: () => showView("history") },
    { key: "d", words: "Darkroom or daylight", act: toggleTheme },
    { key: "?", words: "This list", act: showHotkeys },
  ],
  at("hotkeys-list"),
);

function cancelLast() {
  const last = jobs.open.at(-1);
  if (last?.sheet) sheet.cancel();
  else if (last) jobs.cancel(last);
}

function openNewest() {
  const [newest] = prints.finished;
  if (newest) acts.open(newest.entry);
}

/** Fill the form with what the address says; the address is short again then. */
async function restoreLink() {
  const { settings, wrong } = settingsOf(location.search);
  if (!location.search) return;
  window.history.replaceState(null, "", location.pathname);
  if (Object.keys(settings).length) {
    await acts.apply(settings);
    form.note("Press Develop to draw the linked picture.");
  }
  const told = Object.entries(wrong).map(([name, why]) => `${name} ${why}`);
  if (told.length) say(`The link is not quite right: ${told.join("; ")}.`);
}

/** Learn the models, and make the form anew if they changed. */
async function showModels() {
  const known = () => JSON.stringify([models.map(({ name, sha256 }) => [name, sha256]), others]);
  const before = known();
  ({ models, others } = await loadModels(api, (error) => say(error.message)));
  if (known() !== before) form.show(models, others);
}

/** Wait until a model is loaded, if it never was: then the service says what it takes. */
async function loaded(name) {
  if (!others.includes(name)) return;
  say(`Loading ${name}. This can take a minute.`, { stays: true });
  const reason = await loadModel(api, name);
  await showModels();
  say(reason ? `${name} does not load: ${reason}` : `${name} is loaded.`);
}

const back = () => models.length && showModels();
watch(api, { corner: at("service"), away: at("away") }, jobs, back);
await showModels();
at("loading").hidden = true;
at("empty").hidden = false;
restoreLink();
for (const job of jobs.start()) if (!job.sheet) prints.add(job);
sheet.restore();
const { entries } = await history.search({ sheet: false }, { limit: RESTORED });
await prints.restore(entries);
showTitle(jobs.open);
