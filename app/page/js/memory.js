/** Small values that outlive the page, in the browser's local storage. */

const PREFIX = "darkroom.";

/** A value that was kept, or `otherwise`, also where the browser keeps nothing. */
export function recall(name, otherwise) {
  try {
    const text = localStorage.getItem(PREFIX + name);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

/** Keep a value that JSON can hold; nothing happens where the browser keeps nothing. */
export function keep(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // private windows and full disks keep nothing, and the page works without
  }
}

/** Be told when another tab keeps a value of this name. */
export function heed(name, changed) {
  addEventListener("storage", ({ key }) => key === PREFIX + name && changed());
}
