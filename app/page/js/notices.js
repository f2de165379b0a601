/** What is told beside the pictures: a status line, the title, and a notification when away. */

import { keep, recall } from "./memory.js";
import { orderOf, sentence } from "./models.js";

const PAUSE = 1500; // ms between two texts, so that a screen reader can keep up
const SHOWN = 8000; // ms that a text stays, and for each of its characters
const SHOWN_EACH = 50;
const KEPT = "notify";

/**
 * How a job ended, in words.
 *
 * @returns {{end: string, previews: string}} `previews` says what they cost; "" if there were none.
 */
export function endOf({ settings, status, note, previews: { count, bytes } }) {
  const many = settings.n > 1;
  const ends = {
    succeeded: many ? "are done" : "is done",
    failed: `failed: ${note}`,
    canceled: many ? "were cancelled" : "was cancelled",
  };
  const size = bytes < 1024 ? `${bytes} B` : `${Math.round(bytes / 1024)} KB`;
  const came = count === 1 ? "1 preview came" : `${count} previews came`;
  const previews = count ? `${came}: ${size}, and no evaluations of the network.` : "";
  return { end: sentence(`${orderOf(settings)} ${ends[status]}`), previews };
}

/** A polite status line: of what is said in quick succession, the last counts. It goes later. */
export class Voice {
  #last = 0;
  #timer;
  #end; // the timer after which nothing is said

  /** @param {HTMLElement} place an element with `aria-live`. */
  constructor(place) {
    this.place = place;
  }

  /**
   * Say a text, soon.
   *
   * @param {string} text
   * @param {{stays?: boolean}} [options] whether it stays until another is said.
   */
  say(text, { stays = false } = {}) {
    clearTimeout(this.#timer);
    const wait = Math.max(0, this.#last + PAUSE - performance.now());
    this.#timer = setTimeout(() => {
      this.#last = performance.now();
      this.place.textContent = text;
      clearTimeout(this.#end);
      if (stays) return;
      const time = SHOWN + SHOWN_EACH * text.length;
      this.#end = setTimeout(() => (this.place.textContent = ""), time);
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
    if (!on || !document.hidden) return;
    try {
      new Notification("Darkroom", { body: text, tag: "darkroom" });
    } catch {
      on = false; // Chrome of Android lets only service workers notify
      keep(KEPT, on);
      show();
      say("This browser has no notifications for this page.");
    }
  };
}
