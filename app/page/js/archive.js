/** Entries of the history <-> a file of JSON. Who reads a file checks it: it may be a stranger's. */

import { checked, LARGEST_SEED } from "./fields.js";

const FORMAT = "darkroom-history";
const LONGEST_FILE = 128 * 1024 * 1024; // characters
const LONGEST_ID = 200;
const LONGEST_SIDE = 16384; // pixels
const MOST_IMAGES = 1000; // of a request
const PICTURE = /^(?!\/\/)[\w\-./~%]*(?:images|jobs)\/[\w\-./~%]+$/; // no scheme, no host
const THUMBNAIL = /^data:image\/(?:png|webp|jpeg);base64,[A-Za-z0-9+/]+=*$/;
const STATUSES = ["succeeded", "failed", "canceled"];

/** A file that cannot be imported; the message says why, for people. */
export class UnreadableHistory extends Error {}

/**
 * @param {AsyncIterable<object[]>} pages - Entries of the history; thumbnails may be blobs.
 * @returns {Promise<Blob>} A file of them, as JSON. It is written page by page, because all of it at
 *   once may take a second in which the page does nothing else.
 */
export async function fileOf(pages) {
  const parts = [`{"format":"${FORMAT}","version":1,"entries":[`];
  for await (const entries of pages) {
    const written = JSON.stringify(await Promise.all(entries.map(portable)));
    if (parts.length > 1) parts.push(",");
    parts.push(new Blob([written.slice(1, -1)]));
  }
  return new Blob([...parts, "]}"], { type: "application/json" });
}

/**
 * @param {string} text - Of a file.
 * @returns {(object|null)[]} Its entries, with nothing in them but what belongs there; null in the
 *   place of what is no entry.
 * @throws {UnreadableHistory} It is no file of a history, or has seeds that a browser rounds.
 */
export function entriesOf(text) {
  try {
    const { format, entries } = text.length <= LONGEST_FILE ? JSON.parse(text) : {};
    if (format === FORMAT && Array.isArray(entries)) return entries.map(checkedEntry);
  } catch (error) {
    if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error;
  }
  throw new UnreadableHistory("This file is no history of this page.");
}

async function portable(entry) {
  if (!(entry.thumbnail instanceof Blob)) return entry;
  const thumbnail = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(entry.thumbnail);
  });
  return { ...entry, thumbnail };
}

function checkedEntry(given) {
  const { id, url, settings, image, thumbnail, created, status, error } = given ?? {};
  if (!isId(id)) return null;
  if (!isNumber(created) || typeof settings !== "object" || !settings) return null;
  if (Number(settings.seed) + (image ?? 0) > LARGEST_SEED) {
    throw new UnreadableHistory(`This page can use seeds up to ${LARGEST_SEED}: one is larger.`);
  }
  const entry = { id, created, settings: checked(settings).settings };
  if (typeof given.used === "object") entry.used = checked(given.used ?? {}).settings;
  if (isId(given.sheet)) entry.sheet = given.sheet;
  if (isNumber(given.seconds)) entry.seconds = given.seconds;
  if (isWithin(image, 0, MOST_IMAGES)) entry.image = image;
  for (const side of ["width", "height"]) {
    if (isWithin(given[side], 1, LONGEST_SIDE)) entry[side] = given[side];
  }
  entry.starred = given.starred === true;
  entry.url = typeof url === "string" && PICTURE.test(url) && !url.includes("..") ? url : null;
  entry.thumbnail = typeof thumbnail === "string" && THUMBNAIL.test(thumbnail) ? thumbnail : null;
  entry.status = STATUSES.includes(status) ? status : "succeeded";
  entry.error = typeof error === "string" ? error.slice(0, 1000) : null;
  return entry;
}

function isId(value) {
  return typeof value === "string" && value !== "" && value.length <= LONGEST_ID;
}

function isWithin(value, least, most) {
  return Number.isInteger(value) && value >= least && value <= most;
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value) && value >= 0;
}
