/** The one stream of events of all jobs, which goes on where it broke off. */

const FIRST_WAIT = 500; // ms
const LONGEST_WAIT = 8000;
const SILENCE = 40000; // ms; the service writes a comment, an event without data, after 15 s

/**
 * Follow the events of jobs for as long as the page is open. It connects again by itself.
 *
 * A hidden page lets go of the connection while nothing is under way: without HTTP/2, the tabs of a
 * browser share six connections to a service.
 *
 * @param {import("./api.js").Api} api
 * @param {(event: string, data: object) => void} told is called with each event.
 * @param {() => boolean} busy whether jobs are under way.
 */
export async function follow(api, told, busy) {
  let last = "";
  let wait = FIRST_WAIT;
  for (;;) {
    const rests = () => document.hidden && !busy();
    if (rests()) await visible();
    const silence = new AbortController();
    try {
      const headers = { Accept: "text/event-stream", ...(last ? { "Last-Event-ID": last } : {}) };
      const response = await api.request("jobs/events", { headers, signal: silence.signal });
      for await (const event of events(response.body, silence)) {
        last = event.id ?? last;
        wait = FIRST_WAIT;
        if (event.data) told(event.name, JSON.parse(event.data));
        if (rests()) break;
      }
    } catch (error) {
      if (error.status === 400) last = ""; // the service does not know this id
    }
    await pause(wait);
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

/** Until the page is seen: at once, if it is now. */
export function visible() {
  return new Promise((resolve) => {
    const seen = () => {
      if (document.hidden) return;
      document.removeEventListener("visibilitychange", seen);
      resolve();
    };
    document.addEventListener("visibilitychange", seen);
    seen();
  });
}
