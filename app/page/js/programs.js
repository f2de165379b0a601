/** Settings as programs, to be copied. */

import { element } from "./controls.js";
import { copyText } from "./pictures.js";
import { snippets } from "./snippets.js";

/** A dialog with the programs of some settings. */
export class Programs {
  #programs = [];
  #seeded = true; // whether the settings have a seed

  /** @param {HTMLDialogElement} dialog */
  constructor(dialog) {
    this.dialog = dialog;
    this.at = (name) => dialog.querySelector(`#programs-${name}`);
    this.at("names").addEventListener("click", (event) => {
      const name = event.target.closest("button")?.textContent;
      if (name) this.#choose(name);
    });
    this.at("copy").addEventListener("click", async () => {
      try {
        await copyText(this.at("text").value);
        this.at("note").textContent = "Copied.";
      } catch (error) {
        this.at("note").textContent = error.message;
      }
    });
  }

  /**
   * Show the programs.
   *
   * @param {object} settings of a request.
   * @param {boolean} keyed whether the service wants a key, which is never written down.
   */
  show(settings, keyed) {
    this.#seeded = settings.seed !== undefined;
    this.#programs = snippets(settings, new URL(".", location.href), { keyed });
    const names = this.#programs.map(({ name }) => element("button", { type: "button" }, name));
    this.at("names").replaceChildren(...names);
    this.#choose(this.#programs[0].name);
    this.dialog.showModal();
  }

  #choose(wanted) {
    const { text, missing } = this.#programs.find(({ name }) => name === wanted);
    for (const button of this.at("names").children) {
      button.setAttribute("aria-pressed", button.textContent === wanted);
    }
    this.at("text").value = text;
    const notes = [];
    if (missing.length) {
      notes.push(`This client has no word for ${missing.join(", ")}: its picture is another one.`);
    }
    if (!this.#seeded) notes.push("The seed is not known: each run draws another picture.");
    this.at("note").textContent = notes.join(" ");
  }
}
