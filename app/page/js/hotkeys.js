/** Keys that do what buttons do, and the list of them. */

import { element } from "./controls.js";

const TYPING = "input:not([type=radio]):not([type=checkbox]), textarea, select, [contenteditable]";

/**
 * Listen for keys.
 *
 * @param {{key: string, words: string, act?: () => void, always?: boolean}[]} keys `key` as in
 *   `KeyboardEvent.key`, with `Mod+` for Ctrl or Cmd. Those that are `always` heard are heard in
 *   text fields, too. Those without `act` are only listed: a view hears them itself.
 * @param {HTMLElement} list is filled with them.
 */
export function listen(keys, list) {
  const rows = keys.flatMap(({ key, words }) => [
    element("dt", {}, element("kbd", {}, nameOf(key))),
    element("dd", {}, words),
  ]);
  list.replaceChildren(...rows);
  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.altKey || event.isComposing) return;
    const pressed = `${event.ctrlKey || event.metaKey ? "Mod+" : ""}${event.key}`;
    const found = keys.find(({ act, key }) => act && key.toLowerCase() === pressed.toLowerCase());
    if (!found || (!found.always && event.target.closest?.(TYPING))) return;
    if (document.querySelector("dialog[open]")) return;
    event.preventDefault();
    found.act();
  });
}

function nameOf(key) {
  const modifier = /Mac|iPhone|iPad/.test(navigator.userAgent) ? "⌘ " : "Ctrl ";
  return key.length === 1 ? key.toUpperCase() : key.replace("Mod+", modifier);
}
