/** Pictures as files: where they are, small copies of them, downloads and the clipboard. */

import { queryOf } from "./link.js";

/** The settings of one picture of an entry: its own seed, if it is known, and one picture. */
export function settingsOf({ settings, image }) {
  const { seed } = settings;
  return { ...settings, n: 1, ...(seed === undefined ? {} : { seed: seed + (image ?? 0) }) };
}

/** What the service used otherwise than a job asked: without a class, guidance is 1. */
export function usedOf({ settings, result }) {
  const used = Object.entries(result?.parameters ?? {}).filter(
    ([name, value]) => name in settings && `${value}` !== `${settings[name]}`,
  );
  return Object.fromEntries(used);
}

/** The settings of an entry as they were used, which are those that were asked for or `used`. */
export function drawnWith({ settings, used }) {
  return { ...settings, ...used };
}

/** The entry of a picture that a job will draw: which one, from 0. */
export function entryOf(job, image) {
  const { key, settings, created, status } = job;
  const entry = { id: `${key}-${image}`, settings, image, url: null, seconds: null, status };
  entry.created = created + settings.n - 1 - image; // the first comes first among the newest
  return { ...entry, starred: false, thumbnail: null, error: null };
}

/** Where the picture of an entry is, relative to the page. */
export function addressOf(entry) {
  return entry.url ?? `generate?${queryOf(settingsOf(entry))}`;
}

/** The file of an entry; throws as `Api.request` does. A picture from outside has its own. */
export async function fileOf(api, entry) {
  return entry.file ?? api.file(addressOf(entry));
}

/** Whether two entries, or null, are the same picture. All from outside have the same id. */
export function isSame(one, other) {
  return Boolean(one && other) && one.id === other.id && one.file === other.file;
}

/** A name for a file, such as `digits-7-1.png`. */
export function nameOf(entry) {
  const { model, class: name, seed } = settingsOf(entry);
  const parts = [model, name, seed].filter((each) => (each ?? "") !== "");
  return `${parts.join("-").replace(/[^\w.-]+/g, "_")}.png`;
}

/**
 * How large to show a picture: a whole number of CSS pixels for each of its own, if there is room.
 *
 * @param {[number, number]} size width and height in pixels.
 * @param {[number, number]} room width and height in CSS pixels.
 * @returns {number} from 1 to 24, or a fraction for a picture that is larger than the room.
 */
export function scaleOf([width, height], room) {
  const fit = Math.min(room[0] / width, room[1] / height, 24);
  return fit < 1 ? fit : Math.floor(fit);
}

/** A small copy of a picture that is loaded, as a data URL. */
export function thumbnail(image, longest = 192) {
  const { naturalWidth: width, naturalHeight: height } = image;
  const scale = Math.min(1, longest / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
  return scale < 1 ? canvas.toDataURL("image/webp", 0.8) : canvas.toDataURL();
}

const noises = new Map();

/** What a picture is made of: noise of about its shape, as a data URL. */
export function noise(width, height) {
  const scale = Math.min(1, 48 / Math.max(width, height));
  const [columns, rows] = [width, height].map((side) => Math.max(1, Math.round(side * scale)));
  const name = `${columns}x${rows}`;
  if (!noises.has(name)) {
    const canvas = document.createElement("canvas");
    canvas.width = columns;
    canvas.height = rows;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(columns, rows);
    for (let at = 0; at < pixels.data.length; at += 4) {
      const grey = 40 + 175 * Math.random();
      pixels.data.set([grey, grey, grey, 255], at);
    }
    context.putImageData(pixels, 0, 0);
    noises.set(name, canvas.toDataURL());
  }
  return noises.get(name);
}

/** Save a blob as a file. */
export function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/**
 * Put a text on the clipboard.
 *
 * @throws {Error} the browser does not let this page do so.
 */
export async function copyText(text) {
  if (navigator.clipboard?.writeText) return navigator.clipboard.writeText(text);
  const focused = document.activeElement;
  const field = document.createElement("textarea"); // pages of plain http have no other way
  field.value = text;
  const place = document.querySelector("dialog[open]") ?? document.body;
  place.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  if (!copied) throw new Error("This browser does not let this page copy.");
}

/**
 * Put a PNG on the clipboard.
 *
 * @param {Promise<Blob>} blob is awaited by the browser, which allows this only after a click.
 * @throws {Error} the browser does not let this page do so.
 */
export async function copy(blob) {
  if (!navigator.clipboard?.write) {
    throw new Error("This browser lets only pages of localhost or https copy pictures.");
  }
  await navigator.clipboard.write([new ClipboardItem({ "image/png": blob })]);
}
