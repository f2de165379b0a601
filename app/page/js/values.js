/** The values of an axis of a contact sheet, as they were typed or chosen. */

import { allowedOf, wordsOf } from "./axes.js";
import { WrongValue, checked } from "./fields.js";

/** Pictures of a sheet, at most. */
export const MOST = 100;

const NUMBER = "(\\d+(?:\\.\\d*)?|\\.\\d+)";
const BY = `\\(\\s*([+-]\\s*(?:\\d+(?:\\.\\d*)?|\\.\\d+))\\s*\\)`;
const RANGE = new RegExp(`^${NUMBER}\\s*-\\s*${NUMBER}\\s*(?:${BY}|\\[\\s*(\\d+)\\s*\\])?$`);

/**
 * The values of an axis.
 *
 * @param {object} axis of `axesOf`.
 * @param {string|Array} typed a text, or what was chosen of its choices.
 * @returns {Array<number|string>} in order.
 * @throws {WrongValue} the message says what is wrong and what is allowed.
 */
export function valuesOf(axis, typed) {
  const read = { numbers: numbersOf, lines: linesOf, choices: chosenOf };
  const values = read[axis.kind](axis, typed);
  if (!values.length) {
    const none = axis.kind === "choices" ? "Nothing is chosen." : "There is no value.";
    throw new WrongValue(`${none} ${allowedOf(axis)}`);
  }
  const twice = values.findIndex((each, index) => values.indexOf(each) !== index);
  if (twice >= 0) throw new WrongValue(`${wordsOf(axis.name, values[twice])} is there twice.`);
  return bounded(values.length, values);
}

function numbersOf(axis, typed) {
  const parts = typed.split(/[,;\n]/).map((each) => each.trim());
  return parts.filter(Boolean).flatMap((part) => {
    const range = part.match(RANGE);
    const found = range ? rangeOf(axis, part, range) : [part];
    return found.map((each) => numberOf(axis, part, each));
  });
}

function numberOf(axis, part, value) {
  const { settings, wrong } = checked({ [axis.name]: value });
  const number = settings[axis.name];
  if (wrong[axis.name] || number < axis.least || number > axis.most) {
    throw new WrongValue(`${part} is not allowed. ${allowedOf(axis)}`);
  }
  return number;
}

/** The numbers of `1-9`, `10-50 (+10)`, `50-10 (-10)` or `0-1 [5]`, which is five numbers. */
function rangeOf(axis, part, [, first, last, by, count]) {
  const [start, end] = [Number(first), Number(last)];
  if (count !== undefined) {
    const times = bounded(Number(count), Number(count));
    const apart = (end - start) / Math.max(times - 1, 1);
    const round = axis.whole ? Math.round : rounded;
    return Array.from({ length: times }, (_, index) => round(start + index * apart));
  }
  const step = by === undefined ? Math.sign(end - start) || 1 : Number(by.replace(/\s/g, ""));
  const times = Math.floor(rounded((end - start) / step)) + 1;
  if (!(times >= 1) || !Number.isFinite(times)) {
    throw new WrongValue(`${part} never gets from ${start} to ${end}.`);
  }
  bounded(times, null);
  const round = axis.whole ? Number : rounded; // seeds have more digits than rounding leaves
  return Array.from({ length: times }, (_, index) => round(start + index * step));
}

/** Without what binary fractions add: 0.1 + 0.2 is 0.3. */
function rounded(number) {
  return Number(number.toPrecision(12));
}

function bounded(count, values) {
  if (count <= MOST) return values;
  throw new WrongValue(`These are ${count} values; a sheet has at most ${MOST} pictures.`);
}

function linesOf(axis, typed) {
  const lines = typed.split("\n").map((each) => each.trim());
  return lines.filter(Boolean).map((line) => {
    const { wrong } = checked({ [axis.name]: line });
    const why = [...line].length > axis.characters ? allowedOf(axis) : wrong[axis.name];
    if (why) throw new WrongValue(`"${line.slice(0, 20)}…": ${why}`);
    return line;
  });
}

function chosenOf(axis, chosen) {
  return axis.choices.filter((each) => chosen.includes(each));
}
