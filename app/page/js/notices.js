/** What is told beside the pictures: a status line, the title, and a notification when away. */

import { keep, recall } from "./memory.js";
import { sentence } from "./models.js";

const PAUSE = 1500; // ms between two texts, so that a screen reader can keep up
const KEPT = "notify";

/** Which pictures settings ask for, such as `8 pictures of class 7`. */
export function picturesOf({ n, prompt, class: name }) {
  const count = n === 1 ? "1 picture" : `${n} pictures`;
  if (prompt) return `${count} of “${prompt}”`;
  if (prompt === "") return `${count} without a prompt`;
  return `${count} of ${name == null ? "any class" : `class ${name}`}`;
}

/**
 * How a job ended, in words.
 *
 * @returns {{end: string, previews: string}} `previews` says what they cost; "" if there were none.
 */
export function endOf({ settings, status, note, previews: { count, bytes } }) {
  const one = settings.n === 1;
  const ends = {
    succeeded: one ? "is done" : "are done",
    failed: `failed: ${note}`,
    canceled: one ? "was cancelled" : "were cancelled",
  };
  const size = bytes < 1024 ? `${bytes} B` : `${Math.round(bytes / 1024)} KB`;
  const previews = count ? `Previews: ${count}, ${size}, no evaluations.` : "";
  return { end: sentence(`${picturesOf(settings)} ${ends[status]}`), previews };
}

/** A polite status line: of what is said in quick succession, the last counts. */
export class Voice {
  #last = 0;
  #timer;

  /** @param {HTMLElement} place an element with `aria-live`. */
  constructor(place) {
    this.place = place;
  }

  /** Say a text, soon. */
  say(text) {
    clearTimeout(this.#timer);
    const wait = Math.max(0, this.#last + PAUSE - performance.now());
    this.#timer = setTimeout(() => {
      this.#last = performance.now();
      this.place.textContent = text;
    }, wait);
  }
}

/** Show in the title how far the open jobs are. */
export function showTitle(jobs) {
  const progress = jobs.reduce((sum, job) => sum + job.progress, 0) / jobs.length;
  const title = jobs.length ? `${Math.floor(100 * progress)} % · Darkroom` : "Darkroom";
  if (document.title !== title) document.title = title;
  document.documentElement.classList.toggle("working", jobs.length > 0);
}

/**
 * Let a button switch notifications on and off.
 *
 * @param {HTMLButtonElement} button
 * @param {(text: string) => void} say is told why it cannot be.
 * @returns {(text: string) => void} notifies if it is on and the page is hidden.
 */
export function startNotifications(button, say) {
  let on = recall(KEPT, false) && window.Notification?.permission === "granted";
  const show = () => button.setAttribute("aria-pressed", on);
  show();
  button.addEventListener("click", async () => {
    if (!on && !window.Notification) say("This browser has no notifications for this page.");
    else if (!on && (await Notification.requestPermission()) !== "granted") {
      say("The browser does not allow notifications for this page.");
    } else on = !on;
    keep(KEPT, on);
    show();
  });
  return (text) => {
    if (on && document.hidden) new Notification("Darkroom", { body: text, tag: "darkroom" });
  };
}
