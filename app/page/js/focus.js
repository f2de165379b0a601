/** Where the focus goes when the element that has it is hidden or removed. */

const CONTROLS = "button, input, select, textarea, a[href]";

/**
 * Make a change that may hide or disable the element that has the focus: it stays in the part.
 *
 * @param {HTMLElement} part gets the focus itself if nothing in it can be used.
 * @param {() => void} change
 */
export function keepFocus(part, change) {
  const had = part.contains(document.activeElement);
  change();
  const { activeElement: now, body } = document;
  const lost = now === body || now === part || !isUsable(now);
  if (had && lost) focusFirst(part);
}

/** Remove an element of a list; if the focus is in it, it goes to the next one. */
export function removeFrom(list, element) {
  const focused = element.contains(document.activeElement);
  const next = element.nextElementSibling ?? element.previousElementSibling ?? list;
  element.remove();
  if (focused) focusFirst(next);
}

function focusFirst(part) {
  const first = [...part.querySelectorAll(CONTROLS)].find(isUsable);
  if (!first) part.tabIndex = -1;
  (first ?? part).focus();
}

function isUsable(element) {
  return !element.matches(":disabled") && !element.closest("[hidden]");
}
