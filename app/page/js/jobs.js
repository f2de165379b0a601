/** Jobs of this browser: asked for, followed, cancelled, and joined again after a reload. */

import { ENDED, Job, newKey } from "./job.js";
import { keep, recall } from "./memory.js";
import { sentence, whyNotLoaded } from "./models.js";
import { follow, pause } from "./stream.js";

const OPEN = "open";
const PREVIEWS = 16; // of each picture; they cost no evaluations
const SILENCE = 8000; // ms after which a job is asked for by itself

/**
 * Tells of jobs by events: `change` (detail: the job), and `preview` (detail: the job, the number
 * of the image, its step, and the address of the preview).
 */
export class Jobs extends EventTarget {
  #jobs = new Map(); // key -> job
  #keys = new Set(); // of all jobs that this page ever had
  #early = new Map(); // id -> events of jobs whose answer has not come yet

  /** @param {import("./api.js").Api} api */
  constructor(api) {
    super();
    this.api = api;
  }

  /** Jobs that have not ended. */
  get open() {
    return [...this.#jobs.values()].filter((job) => !job.over);
  }

  /** Begin to follow, and join what was open when the page was left. */
  start() {
    const kept = recall(OPEN, []).filter((each) => each?.key && each.settings);
    const joined = kept.map((each) => this.join(each));
    const busy = () => this.open.length > 0;
    follow(this.api, (name, data) => this.#told(name, data), busy);
    setInterval(() => this.#askForSilent(), SILENCE / 4);
    return joined;
  }

  /**
   * Follow a job that was asked for before, here or in another tab.
   *
   * @param {object} kept `{key, id, settings, created, sheet}`; without an id it is sent again.
   * @returns {Job}
   */
  join(kept) {
    const job = this.#remember(new Job(kept));
    if (job.id) this.#ask(job);
    else this.#send(job);
    return job;
  }

  /**
   * Ask for pictures. It is sent again until the service has it, and never drawn twice.
   *
   * @param {object} settings the body of `POST /generate`, with a seed.
   * @param {string|null} [sheet] that they are for.
   * @returns {Job} at once; events tell the rest.
   */
  submit(settings, sheet = null) {
    const job = this.#remember(new Job({ key: newKey(), settings, created: Date.now(), sheet }));
    this.#save();
    this.#send(job);
    return job;
  }

  /** Cancel a job; one that has ended stays as it is. */
  async cancel(job) {
    if (job.over) return;
    job.pause?.abort();
    if (!job.id) return this.#end(job, "canceled");
    try {
      this.#learn(job, await this.api.json(`jobs/${job.id}`, { method: "DELETE" }));
    } catch (error) {
      if (error.status === 404) this.#end(job, "canceled");
      else this.#change(job, { note: error.message });
    }
  }

  /** Forget a job that has ended. Until then, one with prints is joined again after a reload. */
  release(job) {
    this.#jobs.delete(job.key);
    this.#save();
  }

  async #send(job) {
    const headers = { Prefer: "respond-async", "Idempotency-Key": `"${job.key}"` };
    const body = { ...job.settings, previews: PREVIEWS };
    for (let wait = 1; !job.over; wait = Math.min(2 * wait, 10)) {
      try {
        const options = { method: "POST", json: body, headers };
        const accepted = await this.api.json("generate", options);
        job.id = accepted.id;
        this.#save();
        if (job.over) return void (await this.api.request(`jobs/${job.id}`, { method: "DELETE" }));
        this.#learn(job, accepted);
        this.#early.get(job.id)?.forEach(([name, data]) => this.#news(job, name, data));
        this.#early.clear();
        return;
      } catch (error) {
        if (job.over) return;
        if (error.status && !error.passes) return this.#refuse(job, error);
        const seconds = error.retryAfter ?? wait;
        const full = error.status === 429 && "The service takes no more just now.";
        const note = `${full || sentence(error.message)} Asking again in ${seconds} s.`;
        this.#change(job, { note });
        job.pause = new AbortController();
        await pause(1000 * seconds, job.pause.signal);
        job.pause = null;
      }
    }
  }

  #refuse(job, problem) {
    job.problem = problem;
    this.#end(job, "refused", problem.message);
  }

  #told(name, data) {
    if (name === "snapshot") {
      const open = new Set(data.jobs.map((each) => each.id));
      for (const job of this.open) if (job.id && !open.has(job.id)) this.#ask(job);
      return;
    }
    const job = this.open.find((each) => each.id === data.id);
    if (job) this.#news(job, name, data);
    else if (this.open.some((each) => !each.id)) {
      this.#early.set(data.id, [...(this.#early.get(data.id) ?? []), [name, data]].slice(-64));
    }
  }

  #news(job, name, data) {
    if (job.over) return;
    if (name === "preview") this.#preview(job, data);
    else if (name === "queued") this.#change(job, { status: "queued", place: data.place });
    else if (name === "progress") {
      const { evaluation, total, eta } = data;
      this.#change(job, { status: "running", note: "", evaluation, total, eta });
    } else this.#learn(job, data);
  }

  #preview(job, { image, step, steps, data, media_type }) {
    job.heard = performance.now();
    job.previews.count += 1;
    job.previews.bytes += Math.floor((3 * data.length) / 4);
    const url = `data:${media_type};base64,${data}`;
    this.#dispatch("preview", { job, image, step, steps, url });
  }

  /** Take what `GET /jobs/{id}` says; `why` it waits, if that is known. */
  #learn(job, told, why) {
    if (ENDED.has(told.status)) {
      job.seconds = (Date.parse(told.ended_at) - Date.parse(told.started_at)) / 1000 || null;
      job.result = told.result;
      return this.#end(job, told.status, told.error ?? "");
    }
    const { status, queue_position: place, eta } = told;
    return this.#change(job, { status, note: why || "", place: place ?? job.place, eta });
  }

  /** Ask for a job by itself; what its stream says meanwhile counts more. */
  async #ask(job) {
    job.heard = performance.now();
    try {
      const told = await this.api.json(`jobs/${job.id}`);
      const waits = told.status === "queued" && told.eta === null;
      const why = waits && (await whyNotLoaded(this.api, job.settings.model));
      if (!job.over) this.#learn(job, told, why && sentence(`its model does not load: ${why}`));
    } catch (error) {
      if (error.status === 404) this.#end(job, "failed", "The service no longer knows this job.");
    }
  }

  #askForSilent() {
    const now = performance.now();
    for (const job of this.open) if (job.id && now - job.heard > SILENCE) this.#ask(job);
  }

  #end(job, status, note = "") {
    this.#change(job, { status, note });
    if (status !== "succeeded" || job.sheet) this.release(job);
    this.open.find((each) => each.pause)?.pause.abort(); // there may be room for it now
  }

  #change(job, news) {
    if (job.over) return;
    Object.assign(job, news, { heard: performance.now() });
    this.#dispatch("change", job);
  }

  #remember(job) {
    this.#keys.add(job.key);
    this.#jobs.set(job.key, job);
    return job;
  }

  /** Keep the jobs, and those of other tabs as they are. */
  #save() {
    const others = recall(OPEN, []).filter((each) => !this.#keys.has(each.key));
    const own = [...this.#jobs.values()].map(({ key, id, settings, created, sheet }) => {
      return { key, id, settings, created, sheet };
    });
    keep(OPEN, [...others, ...own]);
  }

  #dispatch(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}
