/** One request of the page, as far as the page knows of it. */

/** The states in which the service has done with a job. */
export const ENDED = new Set(["succeeded", "failed", "canceled"]);

/**
 * One request of the page, from the click to its end.
 *
 * `status` is `sending`, `queued`, `running`, `succeeded`, `failed`, `canceled` or `refused`.
 * `note` says in words why it waits, or why it failed. `sheet` is the id of the contact sheet that
 * it is for, or null.
 */
export class Job {
  constructor({ key, id = null, settings, created, sheet = null }) {
    Object.assign(this, { key, id, settings, created, sheet });
    this.status = id ? "queued" : "sending";
    this.note = "";
    this.place = null;
    this.evaluation = 0;
    this.total = null;
    this.eta = null; // seconds
    this.seconds = null; // on the device, at the end
    this.result = null; // as in `GET /jobs/{id}`, at the end
    this.previews = { count: 0, bytes: 0 };
    this.heard = performance.now();
    this.pause = null; // an AbortController while it waits to be sent again
  }

  /** Whether it has ended, in whichever way. */
  get over() {
    return ENDED.has(this.status) || this.status === "refused";
  }

  /** The part that is done, 0 to 1. */
  get progress() {
    if (this.status === "succeeded") return 1;
    return this.total ? this.evaluation / this.total : 0;
  }
}

/** A name that nobody else has; `crypto.randomUUID` is there on localhost and https alone. */
export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
