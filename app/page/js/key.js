/** The API key: kept for this tab, or in this browser if the user says so. */

import { keep, recall } from "./memory.js";

const KEPT = "key";

/** Knows the key, and asks for one in a dialog where the service wants one. */
export class KeyRing {
  #asking = null;
  #declined = false;

  /** @param {HTMLDialogElement} dialog with a form of the fields `key` and `remember`. */
  constructor(dialog) {
    this.dialog = dialog;
    this.form = dialog.querySelector("form");
    this.key = recall(KEPT, "", "sessionStorage") || recall(KEPT, "");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#keep(this.form.elements.key.value.trim(), this.form.elements.remember.checked);
      dialog.close("given");
    });
  }

  /** Ask again, though the user has closed the dialog before: a click wants it. */
  allow() {
    this.#declined = false;
  }

  /**
   * Ask for a key.
   *
   * @param {string} tried the key that the service refused; "" if none was sent.
   * @param {string} [detail] why it was refused.
   * @returns {Promise<boolean>} whether there is another key now.
   */
  async ask(tried, detail = "") {
    if (this.key !== tried) return true; // another request has asked meanwhile
    if (this.#declined) return false;
    this.#asking ??= this.#show(tried ? detail : "");
    return this.#asking;
  }

  #show(detail) {
    this.dialog.querySelector("[data-role=detail]").textContent = detail;
    this.form.reset();
    this.dialog.returnValue = "";
    this.dialog.showModal();
    return new Promise((resolve) => {
      const closed = () => {
        this.#asking = null;
        this.#declined = this.dialog.returnValue !== "given";
        resolve(!this.#declined);
      };
      this.dialog.addEventListener("close", closed, { once: true });
    });
  }

  #keep(key, remember) {
    this.key = key;
    keep(KEPT, key, "sessionStorage");
    keep(KEPT, remember ? key : "");
  }
}
