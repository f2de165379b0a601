/** One print on the line: noise, then previews, then the picture. */

import { Developing } from "./developing.js";
import { keepFocus } from "./focus.js";
import { describe, inSeconds, sizeOf, subjectOf, titleOf } from "./models.js";
import { drawnWith, noise, settingsOf } from "./pictures.js";

const template = document.querySelector("#print");
const ENDED = { failed: "Failed", canceled: "Cancelled", refused: "Refused" };

/** A picture of a job, or an entry of the history. */
export class Print {
  #developing;
  job = null; // that draws it, if it does not come from the history
  imageId = null; // by which the service draws the picture again, if it has one

  /**
   * @param {object} entry as in the history; `url` is null until the picture is there.
   * @param {object|undefined} model of the entry, for its size and its words.
   */
  constructor(entry, model) {
    Object.assign(this, { entry, model });
    this.element = template.content.firstElementChild.cloneNode(true);
    this.image = this.element.querySelector("img");
    this.#developing = new Developing(this.image);
    [entry.width, entry.height] = sizeOf(model, entry);
    this.element.style.setProperty("--ratio", `${entry.width} / ${entry.height}`);
    this.element.dataset.id = entry.id;
    const { settings } = entry;
    this.#text(".what", subjectOf(settings));
    this.#tellHow();
    this.element.querySelector(".what").title = subjectOf(settings);
    this.image.src = noise(entry.width, entry.height);
    this.name("waiting");
  }

  /** Show how far the job is. */
  follow(job) {
    const { element, entry } = this;
    this.job = job;
    entry.status = job.status;
    const progress = element.querySelector("progress");
    element.classList.toggle("developing", !job.over);
    element.classList.toggle("ended", job.status in ENDED);
    element.style.setProperty("--progress", job.progress);
    progress.hidden = job.over;
    if (job.total) progress.value = job.progress;
    const all = job.settings.n > 1 ? ` all ${job.settings.n}` : "";
    this.#text("[data-act=cancel]", `Cancel${all}`);
    this.#text("[data-act=clear]", `Remove${all}`);
    element.querySelector(".paper").disabled = true;
    this.#text(".state", stateOf(job));
    if (job.status in ENDED) {
      this.name(ENDED[job.status].toLowerCase());
      this.#offer(["restore", "clear"]);
    } else {
      this.#offer(job.over ? [] : ["cancel"]);
      if (!job.over) this.name("developing");
    }
  }

  /**
   * Show a preview, unless a newer one was shown.
   *
   * @param {number} step of the sampler.
   * @param {string} url
   */
  preview(step, url) {
    this.#developing.show(step, url);
  }

  /**
   * Show the picture itself.
   *
   * @param {string} url of the picture, or of its thumbnail.
   * @throws {DOMException} it is no picture.
   */
  async finish(url) {
    const { entry, element } = this;
    await this.#developing.finish(url);
    element.classList.remove("developing", "ended");
    element.querySelector("progress").hidden = true;
    element.querySelector(".paper").disabled = false;
    const time = entry.seconds ? ` · ${inSeconds(entry.seconds)}` : "";
    this.#tellHow();
    this.#text(".state", `seed ${settingsOf(entry).seed ?? "unknown"}${time}`);
    this.name("finished");
    this.#offer(["star", "restore", "compare", "download", "delete"]);
    this.star();
  }

  /** Say why there is no picture. */
  lose(words) {
    this.element.classList.add("ended");
    this.#text(".state", words);
    this.name("failed");
    this.#offer(["delete", "restore"]);
  }

  /** Show whether the entry has a star. */
  star() {
    const button = this.element.querySelector("[data-act=star]");
    button.setAttribute("aria-pressed", Boolean(this.entry.starred));
  }

  /** Show whether the picture waits for another to be compared with. */
  hold(held) {
    this.element.classList.toggle("held", held);
    const button = this.element.querySelector("[data-act=compare]");
    button.setAttribute("aria-pressed", held);
    button.title = held ? "Let go" : "Compare";
    button.setAttribute("aria-label", button.title);
  }

  /** Say what the picture is to those who do not see it. */
  name(state) {
    this.image.alt = describe(drawnWith(this.entry), this.entry.image, state);
    this.element.dataset.state = state;
  }

  #tellHow() {
    const { steps, guidance_scale: guidance, sampler } = drawnWith(this.entry);
    const title = titleOf(this.model, sampler);
    this.#text(".how", `${steps} steps · ${title}\nguidance ${guidance}`);
  }

  #offer(acts) {
    keepFocus(this.element, () => {
      for (const button of this.element.querySelectorAll(".acts [data-act]")) {
        button.hidden = !acts.includes(button.dataset.act);
      }
    });
  }

  #text(selector, text) {
    const found = this.element.querySelector(selector);
    if (found.textContent !== text) found.textContent = text;
  }
}

/** How far a job is, in words. */
export function stateOf(job) {
  if (job.status in ENDED) return [ENDED[job.status], job.note].filter(Boolean).join(": ");
  if (job.note) return job.note;
  if (job.status === "sending") return "Sending";
  const left = job.eta === null ? "" : `, ${inSeconds(job.eta)} left`;
  if (job.status === "queued") {
    const before = job.place ? `${job.place} before it` : "next";
    return `In the queue: ${before}${left}`;
  }
  const { steps } = job.settings;
  const step = job.total ? `Step ${Math.floor(job.progress * steps)} of ${steps}` : "Developing";
  return `${step}${left}`;
}
