/**
 * Settings <-> the query of an address. The names are those of `GET /generate`, so one query opens
 * the page with these settings and draws the picture with the other path.
 */

import { FIELD_NAMES, checked } from "./fields.js";

const LONGEST = 8192; // characters of a path and query that the service reads

/** These settings do not fit into an address. */
export class LinkTooLong extends Error {}

/**
 * The query that stands for settings, without its question mark.
 *
 * @param {object} settings - The body of a request; fields that are no settings are left out.
 * @returns {string} `class=7&steps=50`, or an empty text for no settings.
 * @throws {LinkTooLong} The service would not read an address of this length.
 */
export function queryOf(settings) {
  const query = new URLSearchParams();
  for (const name of FIELD_NAMES) {
    const value = settings[name];
    if (value !== undefined && value !== null && value !== "") query.append(name, String(value));
  }
  const written = query.toString();
  if (written.length > LONGEST - 256) {
    throw new LinkTooLong("The prompts are too long for a link.");
  }
  return written;
}

/**
 * The address of this page that restores settings.
 *
 * @param {object} settings - As for `queryOf`.
 * @param {string|URL} page - The page's own address; its query and fragment are left out.
 * @returns {string} An address that restores the settings and runs nothing.
 * @throws {LinkTooLong} As `queryOf` does.
 */
export function linkOf(settings, page) {
  const address = new URL(page);
  address.search = queryOf(settings);
  address.hash = "";
  return address.href;
}

/**
 * What a link restores. Names that are no fields are left out.
 *
 * @param {string} query - `location.search`, with or without its question mark.
 * @returns {{settings: object, wrong: Object<string, string>}} What can be restored, and why the
 *   other fields cannot, by field.
 */
export function settingsOf(query) {
  const values = {};
  const twice = {};
  for (const [name, value] of new URLSearchParams(query)) {
    if (!FIELD_NAMES.includes(name)) continue;
    if (Object.hasOwn(values, name)) twice[name] = "is given twice";
    values[name] = value;
  }
  for (const name of Object.keys(twice)) delete values[name];
  const { settings, wrong } = checked(values);
  return { settings, wrong: { ...wrong, ...twice } };
}
