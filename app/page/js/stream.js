/** The one stream of events of all jobs, which goes on where it broke off. */

const FIRST_WAIT = 500; // ms
const LONGEST_WAIT = 8000;
const SILENCE = 40000; // the service writes a comment after 15 seconds

/**
 * Follow the events of jobs until the signal ends it. It connects again by itself.
 *
 * @param {import("./api.js").Api} api
 * @param {(event: string, data: object) => void} told is called with each event.
 * @param {AbortSignal} signal
 */
export async function follow(api, told, signal) {
  let last = "";
  let wait = FIRST_WAIT;
  while (!signal.aborted) {
    const silence = new AbortController();
    try {
      const headers = { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) };
      const either = AbortSignal.any([signal, silence.signal]);
      const response = await api.request("jobs/events", { headers, signal: either });
      for await (const event of events(response.body, silence)) {
        last = event.id ?? last;
        wait = FIRST_WAIT;
        if (event.data) told(event.name, JSON.parse(event.data));
      }
    } catch (error) {
      if (error.status === 400) last = ""; // the service does not know this id
    }
    await pause(wait, signal);
    wait = Math.min(2 * wait, LONGEST_WAIT);
  }
}

/**
 * Events of a body of server-sent events.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @param {AbortController} silence is aborted if nothing comes for long.
 * @yields {{id?: string, name?: string, data?: string}}
 */
async function* events(body, silence) {
  let timer;
  const heard = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE);
  };
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let rest = ""; ; ) {
      heard();
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split(/\r?\n\r?\n/);
      rest = blocks.pop();
      for (const block of blocks) yield parse(block);
    }
  } finally {
    clearTimeout(timer);
    reader.cancel().catch(() => {});
  }
}

function parse(block) {
  const field = (name) => block.match(new RegExp(`^${name}: ?(.*)$`, "m"))?.[1];
  return { id: field("id"), name: field("event"), data: field("data") };
}

/**
 * Wait.
 *
 * @param {number} milliseconds
 * @param {AbortSignal} [signal] ends the wait early.
 * @returns {Promise<void>} also when the signal ended it.
 */
export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
