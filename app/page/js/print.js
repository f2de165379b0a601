/** One print on the line: noise, then previews, then the picture. */

import { Developing } from "./developing.js";
import { describe, inSeconds, sizeOf, subjectOf, titleOf } from "./models.js";
import { noise, settingsOf } from "./pictures.js";

const template = document.querySelector("#print");
const ENDED = { failed: "Failed", canceled: "Cancelled", refused: "Refused" };

/** A picture of a job, or an entry of the history. */
export class Print {
  #developing;
  imageId = null; // by which the service draws the picture again, if it has one

  /**
   * @param {object} entry as in the history; `url` is null until the picture is there.
   * @param {object|undefined} model of the entry, for its size and its words.
   */
  constructor(entry, model) {
    this.entry = entry;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.image = this.element.querySelector("img");
    this.#developing = new Developing(this.image);
    [entry.width, entry.height] = sizeOf(model, entry);
    this.element.style.setProperty("--ratio", `${entry.width} / ${entry.height}`);
    this.element.dataset.id = entry.id;
    const { settings } = entry;
    this.#text(".what", subjectOf(settings));
    const { steps, guidance_scale: guidance, sampler } = settings;
    this.#text(".how", `${steps} steps · ${guidance} · ${titleOf(model, sampler)}`);
    this.element.querySelector(".what").title = subjectOf(settings);
    this.image.src = noise(entry.width, entry.height);
    this.name("waiting");
  }

  /** Show how far the job is. */
  follow(job) {
    const { element, entry } = this;
    entry.status = job.status;
    const progress = element.querySelector("progress");
    element.classList.toggle("developing", !job.over);
    element.classList.toggle("ended", job.status in ENDED);
    element.style.setProperty("--progress", job.progress);
    progress.hidden = job.over;
    if (job.total) progress.value = job.progress;
    const cancel = element.querySelector("[data-act=cancel]");
    cancel.hidden = job.over;
    cancel.textContent = job.settings.n > 1 ? `Cancel all ${job.settings.n}` : "Cancel";
    element.querySelector(".paper").disabled = true;
    this.#text(".state", stateOf(job));
    if (job.status in ENDED) {
      this.name(ENDED[job.status].toLowerCase());
      this.#offer(["delete", "restore"]);
    } else if (!job.over) this.name("developing");
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
    element.querySelector("[data-act=cancel]").hidden = true;
    element.querySelector(".paper").disabled = false;
    const time = entry.seconds ? ` · ${inSeconds(entry.seconds)}` : "";
    this.#text(".state", `seed ${settingsOf(entry).seed ?? "unknown"}${time}`);
    this.name("finished");
    this.#offer(["star", "restore", "compare", "download", "delete"]);
    this.star();
  }

  /** Show whether the entry has a star. */
  star() {
    const button = this.element.querySelector("[data-act=star]");
    button.setAttribute("aria-pressed", Boolean(this.entry.starred));
  }

  /** Show whether the picture waits for another to be compared with. */
  hold(held) {
    this.element.classList.toggle("held", held);
    this.element.querySelector("[data-act=compare]").setAttribute("aria-pressed", held);
  }

  /** Say what the picture is to those who do not see it. */
  name(state) {
    const { settings, image } = this.entry;
    this.image.alt = describe(settings, image, state);
    this.element.dataset.state = state;
  }

  #offer(acts) {
    for (const button of this.element.querySelectorAll(".acts .icon")) {
      button.hidden = !acts.includes(button.dataset.act);
    }
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
