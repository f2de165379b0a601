/** Pictures from outside: dropped, pasted or picked, of which the settings can be used. */

import { factsOf, listed } from "./facts.js";
import { settingsOfPicture } from "./infotext.js";
import { sentence } from "./models.js";

/** Tells `apply` (detail: settings) or `look` (detail: an entry), as the user chooses. */
export class Found extends EventTarget {
  #entry = null;
  #address = null;

  /**
   * @param {HTMLDialogElement} dialog
   * @param {() => object[]} models gives those of the service.
   */
  constructor(dialog, models) {
    super();
    this.dialog = dialog;
    this.models = models;
    dialog.addEventListener("click", (event) => {
      const act = event.target.closest("[data-act]")?.dataset.act;
      if (!act) return;
      dialog.close();
      const detail = act === "apply" ? this.#entry.settings : this.#entry;
      this.dispatchEvent(new CustomEvent(act, { detail }));
    });
    dialog.addEventListener("close", () => URL.revokeObjectURL(this.#address));
  }

  /** Watch for pictures that are dropped on the page or pasted into it. */
  watch(page) {
    const root = page.documentElement;
    page.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      root.classList.add("dropping");
    });
    page.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) root.classList.remove("dropping");
    });
    page.addEventListener("drop", (event) => {
      root.classList.remove("dropping");
      const [file] = event.dataTransfer.files;
      if (!file) return;
      event.preventDefault();
      this.show(file);
    });
    page.addEventListener("paste", (event) => {
      const [file] = event.clipboardData.files;
      if (file) this.show(file);
    });
  }

  /** Ask what is to be done with a file. Nothing of it is sent anywhere. */
  async show(file) {
    const at = (id) => this.dialog.querySelector(`#found-${id}`);
    this.#entry = { id: "found", settings: {}, image: 0, file, seconds: null, starred: false };
    let notes = [];
    try {
      const found = await settingsOfPicture(file, this.models());
      this.#entry.settings = { n: 1, ...found.settings };
      ({ notes } = found);
    } catch (error) {
      notes = [error.message];
    }
    const told = Object.keys(this.#entry.settings).length > 0;
    this.#address = URL.createObjectURL(file);
    at("picture").src = this.#address;
    at("picture").alt = file.name ? `The file ${file.name}` : "The picture";
    const model = this.models().find(({ name }) => name === this.#entry.settings.model);
    at("facts").replaceChildren(...(told ? listed(factsOf(this.#entry, model)) : []));
    at("note").textContent = notes.map(sentence).join(" ");
    this.dialog.querySelector("[data-act=apply]").hidden = !told;
    await at("picture").decode().catch(() => {});
    const { naturalWidth: width, naturalHeight: height } = at("picture");
    Object.assign(this.#entry, { width, height });
    at("picture").hidden = !width;
    this.dialog.querySelector("[data-act=look]").hidden = !width;
    this.dialog.querySelector("[data-close]").textContent = told || width ? "Cancel" : "Close";
    if (!this.dialog.open) this.dialog.showModal();
  }
}
