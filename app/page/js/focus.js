/** Where the focus goes when the element that has it is hidden or removed. */

const CONTROLS = "button, input, select, textarea, a[href]";

/**
 * Keep the focus in a part of the page where a change just hid or disabled the element that has
 * it. To be called before the browser paints: then it would give the focus to nobody.
 *
 * @param {HTMLElement} part gets the focus itself if nothing in it can be used.
 */
export function refocus(part) {
  const { activeElement } = document;
  if (!part.contains(activeElement) || (activeElement !== part && isUsable(activeElement))) return;
  focusFirst(part);
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
