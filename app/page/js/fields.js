/**
 * The fields of a request that pictures, links and stored entries carry, and what type each has.
 * What the service allows beyond the type (ranges, names) it says itself, beside the field.
 */

/** The service takes seeds up to 2^63 - 1; a browser rounds those above this one. */
export const LARGEST_SEED = Number.MAX_SAFE_INTEGER;
const MOST_CHARACTERS = 4096;
const NO_TEXT = /[\0\ud800-\udfff]/u; // NUL, and halves of surrogate pairs

const FIELDS = {
  model: text,
  class: text,
  prompt: text,
  negative_prompt: text,
  clip_skip: whole,
  steps: whole,
  sampler: text,
  spacing: text,
  guidance_scale: real,
  guidance_interval: interval,
  eta: real,
  seed: whole,
  n: whole,
  width: whole,
  height: whole,
};

/** The names of all fields, in the order in which they are written. */
export const FIELD_NAMES = Object.freeze(Object.keys(FIELDS));

/** A value that a field cannot have; the message says what is allowed. */
export class WrongValue extends Error {}

/**
 * Checks values by the names of their fields. Unknown names are left out, and so are null and
 * undefined; text stands for a number as in a form, where empty text is absent.
 *
 * @param {object} values - field -> value.
 * @returns {{settings: object, wrong: Object<string, string>}} What is right, in the order of
 *   `FIELD_NAMES`, and why the others are wrong, by field.
 */
export function checked(values) {
  const settings = {};
  const wrong = {};
  for (const name of FIELD_NAMES) {
    const value = values[name];
    if (value === undefined || value === null || value === "") continue;
    try {
      settings[name] = FIELDS[name](value);
    } catch (error) {
      if (!(error instanceof WrongValue)) throw error;
      wrong[name] = error.message;
    }
  }
  return { settings, wrong };
}

function text(value) {
  const words = typeof value === "number" ? String(value) : value;
  if (typeof words !== "string" || words.length > 2 * MOST_CHARACTERS || NO_TEXT.test(words)) {
    throw new WrongValue(`must be a text of at most ${MOST_CHARACTERS} characters`);
  }
  if ([...words].length > MOST_CHARACTERS) {
    throw new WrongValue(`must have at most ${MOST_CHARACTERS} characters`);
  }
  return words;
}

function real(value) {
  const number = typeof value === "string" && value.length < 40 ? parsed(value) : value;
  if (typeof number !== "number" || !Number.isFinite(number) || number < 0) {
    throw new WrongValue("must be a number from 0");
  }
  return number;
}

function whole(value) {
  const number = real(value);
  if (!Number.isInteger(number)) throw new WrongValue("must be an integer from 0");
  if (!Number.isSafeInteger(number)) {
    throw new WrongValue(`must be at most ${LARGEST_SEED}, the largest that this page can use`);
  }
  return number;
}

function interval(value) {
  const parts = typeof value === "string" ? value.split(",", 3) : value;
  if (!Array.isArray(parts) || parts.length !== 2) {
    throw new WrongValue("must be two numbers, from 0 to 1");
  }
  return parts.map(real);
}

function parsed(value) {
  return /^\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*$/i.test(value) ? Number(value) : NaN;
}
