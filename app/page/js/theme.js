/** Darkroom or daylight: as the system has it, until the user chooses. */

import { keep, recall } from "./memory.js";

const KEPT = "theme";

/** Apply what was chosen before; a click on the button, or `toggle`, chooses the other. */
export function startTheme(button) {
  const root = document.documentElement;
  const chosen = recall(KEPT, "");
  if (chosen) root.dataset.theme = chosen;
  const toggle = () => {
    const system = matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
    root.dataset.theme = (root.dataset.theme ?? system) === "light" ? "dark" : "light";
    keep(KEPT, root.dataset.theme);
  };
  button.addEventListener("click", toggle);
  return toggle;
}
