/** The quiet corner: whether the service is ready, its queue and its pace, from `GET /engine`. */

import { element } from "./controls.js";
import { pause, visible } from "./stream.js";

const INTERVAL = 2000; // ms
const RESTS = 4; // intervals between two questions while nothing is under way
const ROWS =
  "Rows of all batches in a second: one step of one picture is a row, and two with guidance";
const EFFICIENT = "The part of the batches that was pictures; the rest filled them up";

/**
 * Look after the service for as long as the page is open.
 *
 * @param {import("./api.js").Api} api
 * @param {{corner: HTMLElement, away: HTMLElement}} places
 * @param {import("./jobs.js").Jobs} jobs of this page; it is asked again when the last one ends.
 * @param {() => void} back is called when the service is there again, and when it is ready again.
 */
export async function watch(api, { corner, away }, jobs, back) {
  const busy = () => jobs.open.length > 0;
  let rest;
  jobs.addEventListener("change", () => busy() || rest.abort());
  let before = null;
  let gone = false;
  for (;;) {
    rest = new AbortController();
    try {
      const now = { ...(await api.json("engine")), at: performance.now() };
      show(corner, now, paceOf(before, now));
      if (gone || (now.ready && before?.ready === false)) back();
      before = now;
      gone = false;
      away.hidden = true;
    } catch (error) {
      gone = error.status !== 401;
      if (gone) before = null;
      tell(corner, away, error);
    }
    for (let rests = 0; rests < RESTS; rests += 1) {
      await pause(INTERVAL, rest.signal);
      if (gone || busy() || rest.signal.aborted) break;
    }
    if (document.hidden && !busy()) await visible();
  }
}

/** Rows per second, and the part of them that was no padding; null where nothing was drawn. */
export function paceOf(before, now) {
  if (!before || before.worker_pid !== now.worker_pid) return null;
  const rows = now.rows - before.rows;
  const padding = now.padding - before.padding;
  if (rows <= 0) return null;
  const seconds = (now.at - before.at) / 1000;
  return { rows: rows / seconds, efficiency: rows / (rows + padding) };
}

function show(corner, engine, pace) {
  const waiting = engine.jobs - engine.running;
  const queue = `${engine.jobs} under way${waiting > 0 ? `, ${waiting} waiting` : ""}`;
  const [state, word] = engine.ready ? ["ready", "Ready"] : ["loading", "Loading"];
  const parts = [
    element("span", { "data-state": state }, word),
    element("span", {}, engine.jobs ? queue : "queue empty"),
  ];
  if (pace) {
    const [rows, efficiency] = [pace.rows, 100 * pace.efficiency].map(Math.round);
    parts.push(element("span", { title: ROWS }, `${rows} rows/s`));
    parts.push(element("span", { title: EFFICIENT }, `${efficiency} % efficient`));
  }
  corner.replaceChildren(...parts);
}

function tell(corner, away, error) {
  const locked = error.status === 401;
  const words = locked ? "Locked: it wants an API key" : "Away";
  corner.replaceChildren(element("span", { "data-state": "away" }, words));
  away.textContent = locked
    ? "The service asks for an API key. Press Develop to enter one."
    : "The service does not answer. Nothing is lost: this page goes on by itself when it is back.";
  away.hidden = false;
}
