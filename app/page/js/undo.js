/** The offer to undo, which stands for some seconds. */

import { keepFocus } from "./focus.js";

const OFFERED = 9000; // ms, about as its words; longer while it has the focus or the pointer

/** Buttons that undo what was done last: of the page, and of a dialog that covers the page. */
export class Undo {
  #buttons;
  #act = null;
  #timer;

  /** @param {Iterable<HTMLButtonElement>} buttons of which the one that is not covered is used. */
  constructor(buttons) {
    this.#buttons = [...buttons];
    for (const button of this.#buttons) {
      button.addEventListener("click", () => {
        const act = this.#act;
        this.end();
        act();
      });
    }
  }

  /** Offer to undo, instead of what was offered before. */
  offer(act) {
    this.#show(act);
    this.#timer = setTimeout(() => this.#lapse(), OFFERED);
  }

  /** Offer nothing any more. */
  end() {
    this.#show(null);
  }

  #lapse() {
    const busy = this.#buttons.some((each) => each.matches(":focus, :hover"));
    if (busy) this.offer(this.#act);
    else this.end();
  }

  #show(act) {
    clearTimeout(this.#timer);
    this.#act = act;
    for (const button of this.#buttons) {
      keepFocus(button.parentElement, () => (button.hidden = !act));
    }
  }
}
