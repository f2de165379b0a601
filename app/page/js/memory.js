/** Small values that outlive the page, in the browser's storage. */

const PREFIX = "darkroom.";

/**
 * A value that was kept.
 *
 * @param {string} name
 * @param {*} otherwise is given where nothing is kept, or what is kept is of another kind: another
 *   version of the page may have written it. Of an object, what is not kept is as in this one.
 * @param {string} [place] `localStorage`, or `sessionStorage` for what only this tab keeps.
 */
export function recall(name, otherwise, place = "localStorage") {
  try {
    const value = JSON.parse(globalThis[place].getItem(PREFIX + name));
    if (!isAlike(value, otherwise)) return otherwise;
    return isPlain(otherwise) ? { ...otherwise, ...value } : value;
  } catch {
    return otherwise;
  }
}

/** Keep a value that JSON can hold; nothing happens where the browser keeps nothing. */
export function keep(name, value, place = "localStorage") {
  try {
    globalThis[place].setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // private windows and full disks keep nothing, and the page works without
  }
}

/** Be told when another tab keeps a value of this name. */
export function heed(name, changed) {
  addEventListener("storage", ({ key }) => key === PREFIX + name && changed());
}

/** Whether a value is of the same kind as another, and so is what is in it, as far as it is. */
function isAlike(value, other) {
  if (typeof value !== typeof other || Array.isArray(value) !== Array.isArray(other)) return false;
  if (!isPlain(other)) return true;
  if (!isPlain(value)) return false;
  const names = Object.keys(other).filter((name) => name in value);
  return names.every((name) => isAlike(value[name], other[name]));
}

function isPlain(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
