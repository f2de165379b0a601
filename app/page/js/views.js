/** The views of the wall, of which one is shown. */

/**
 * Let buttons with `data-view` show the element `view-NAME`; styles find its name as `data-shown`.
 *
 * @param {HTMLElement} nav
 * @param {Object<string, () => void>} shown is called by name when a view is shown.
 * @returns {(name: string) => void} shows a view.
 */
export function startViews(nav, shown) {
  const buttons = [...nav.querySelectorAll("[data-view]")];
  const show = (name) => {
    for (const button of buttons) {
      const current = button.dataset.view === name;
      document.getElementById(`view-${button.dataset.view}`).hidden = !current;
      if (current) button.setAttribute("aria-current", "page");
      else button.removeAttribute("aria-current");
    }
    document.body.dataset.shown = name;
    shown[name]?.();
  };
  nav.addEventListener("click", (event) => {
    const button = event.target.closest("[data-view]");
    if (button) show(button.dataset.view);
  });
  return show;
}
