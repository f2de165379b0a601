/** What can be done with an entry, wherever it is shown. */

import { linkOf } from "./link.js";
import { copyText, isSame, settingsOf, thumbnail } from "./pictures.js";
import { download } from "./viewer.js";

/** One method for each `data-act` of a button. */
export class Acts {
  #held = null; // the entry that the next one is compared with

  /** @param {object} parts of the page: services and views, by the names that main.js gives. */
  constructor(parts) {
    Object.assign(this, parts);
  }

  /** Show it large, among the other prints on the line. */
  open(entry) {
    const entries = this.prints.finished.map((print) => print.entry);
    this.viewer.open(entries, entries.indexOf(entry));
  }

  /** Cancel the job that draws it. */
  cancel(entry) {
    this.jobs.cancel(this.jobs.open.find((job) => entry.id.startsWith(job.key)));
  }

  /** Give it a star, or take it away. */
  async star(entry) {
    const starred = !entry.starred;
    const print = this.prints.of(entry);
    for (const each of [entry, print?.entry, this.sheet.entryOf(entry)]) {
      if (each) each.starred = starred;
    }
    print?.star();
    this.viewer.star();
    await this.history.star(entry.id, entry.starred);
    await this.album.refresh();
  }

  /** Take the pictures of a job that ended without them from the line. */
  clear(entry) {
    this.prints.clear(this.prints.of(entry));
  }

  /** Take it from wherever it is shown and from the history, and offer to undo that. */
  async delete(entry) {
    const print = this.prints.of(entry);
    if (isSame(this.#held, entry)) this.#hold(null);
    const undoInViewer = this.viewer.entry && this.viewer.remove(entry);
    if (print) this.prints.remove(print);
    const undoInSheet = this.sheet.forget(entry);
    const kept = await this.history.get(entry.id);
    await this.history.delete(entry.id);
    this.album.refresh();
    this.say("Deleted.");
    this.undo.offer(async () => {
      if (kept) await this.history.put(kept);
      if (print) this.prints.putBack(print);
      undoInSheet?.();
      undoInViewer?.();
      this.album.refresh();
      this.say("It is here again.");
    });
  }

  /** Hold it for a comparison, let it go, or compare it with the one that is held. */
  compare(entry) {
    const held = this.#held;
    if (!held) {
      this.#hold(entry);
      return this.say("Held. Choose another picture to compare it with.");
    }
    if (isSame(held, entry)) return this.letGo();
    this.#hold(null);
    this.say("Comparing two pictures.");
    return this.comparison.open(held, entry);
  }

  /** Let go of the picture that is held, if there is one. */
  letGo() {
    if (!this.#held) return;
    this.#hold(null);
    this.say("Let go.");
  }

  /** Fill the form with its settings. */
  restore(entry) {
    this.viewer.dialog.close();
    this.apply(settingsOf(entry));
  }

  /** Fill the form with settings, which are sent by nobody but the user. */
  async apply(settings) {
    await this.loaded(settings.model);
    if (!this.form.root.offsetParent) this.showView("prints"); // a phone hides it in the history
    const known = this.form.restore(settings) || !settings.model;
    const missing = `The service has no model ${settings.model}; the other settings are here.`;
    this.say(known ? "These settings are in the form." : missing);
  }

  /** Use its seed for the next pictures. */
  seed(entry) {
    this.viewer.dialog.close();
    this.form.reuse(settingsOf(entry).seed);
    this.say("This seed is in the form, and stays.");
  }

  /** Save it as a file. */
  async download(entry) {
    await this.#telling(() => download(this.api, entry));
  }

  /** Copy an address that fills the form. */
  async link(entry) {
    await this.copyLink(settingsOf(entry));
  }

  /** Copy an address that fills the form with settings. */
  async copyLink(settings) {
    await this.#telling(async () => {
      await copyText(linkOf(settings, location.href));
      this.say("The link is copied. It fills the form, and draws nothing by itself.");
    });
  }

  /** Show programs that draw it. */
  code(entry) {
    this.programs.show(settingsOf(entry), Boolean(this.api.keys.key));
  }

  /** Keep a picture that was just finished in the history, by its own settings. */
  async remember({ entry, image, imageId }) {
    const settings = settingsOf(entry);
    entry.thumbnail = thumbnail(image);
    if (imageId) entry.url = `images/${imageId}.png`;
    const kept = await this.history.get(entry.id); // by another tab
    if (!kept) await this.history.put({ ...entry, settings, image: 0 });
    await this.album.refresh();
  }

  #hold(entry) {
    this.#held = entry;
    this.prints.hold(entry);
    this.viewer.hold(entry);
  }

  async #telling(act) {
    try {
      await act();
    } catch (error) {
      this.say(error.message);
    }
  }
}
