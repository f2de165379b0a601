/** The quiet corner: whether the service is ready, its queue and its pace, from `GET /engine`. */

import { element } from "./controls.js";
import { pause, visible } from "./stream.js";

const INTERVAL = 2000; // ms
const RESTS = 4; // intervals between two questions while nothing is under way

/**
 * Look after the service for as long as the page is open.
 *
 * @param {import("./api.js").Api} api
 * @param {{corner: HTMLElement, away: HTMLElement}} places
 * @param {() => boolean} busy whether pictures are being made.
 * @param {() => void} back is called when the service is there again, and when it is ready again.
 */
export async function watch(api, { corner, away }, busy, back) {
  let before = null;
  let gone = false;
  for (;;) {
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
      await pause(INTERVAL);
      if (gone || busy()) break;
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
    parts.push(element("span", {}, `${Math.round(pace.rows)} rows/s`));
    parts.push(element("span", {}, `${Math.round(100 * pace.efficiency)} % efficient`));
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
