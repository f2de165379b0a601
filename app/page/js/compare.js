/** Two pictures in one frame, and what differs between them. */

import { element } from "./controls.js";
import { differenceOfPixels, differenceOfSettings, pixelsOf } from "./difference.js";
import { settingsFacts } from "./facts.js";
import { describe, sizeOf, subjectOf } from "./models.js";
import { drawnWith, fileOf, scaleOf, settingsOf } from "./pictures.js";

const SIDES = ["left", "right"];
const WORDS = ["Left", "Right"];
const SPLITS = { left: 100, both: 50, right: 0 };
const PAPER = 28; // CSS pixels of the width that the paper's edges take
const OTHERS = 300; // CSS pixels of the height that other things take

/** Tells `restore` (detail: an entry) when its settings are to be used. */
export class Compare extends EventTarget {
  #sides = []; // left, right: the entry, the address and the pixels of its file, what went wrong
  #split = 50; // percent of the width, from the left, that show the left picture

  /**
   * @param {HTMLDialogElement} dialog
   * @param {import("./api.js").Api} api
   * @param {(name: string) => object|undefined} modelOf
   */
  constructor(dialog, api, modelOf) {
    super();
    Object.assign(this, { dialog, api, modelOf });
    this.at = (name) => dialog.querySelector(`#compare-${name}`);
    this.frame = this.at("frame");
    this.slider = this.at("split");
    dialog.addEventListener("click", ({ target }) => {
      if (target === dialog) return dialog.close();
      const { act, show } = target.closest("button")?.dataset ?? {};
      if (act) this.#act(act);
      if (show) this.#move(SPLITS[show]);
    });
    dialog.addEventListener("close", () => this.#release());
    window.addEventListener("resize", () => this.#enlarge());
    this.slider.addEventListener("input", () => this.#move(this.slider.valueAsNumber));
    this.#watchFrame();
    this.#watchFlip();
  }

  /**
   * Show two entries of the history.
   *
   * @param {object} left `file` is the blob of one that is not in the history.
   * @param {object} right
   */
  async open(left, right) {
    this.#release();
    this.#sides = [left, right].map((entry) => ({ entry, address: entry.thumbnail }));
    if (!this.dialog.open) this.dialog.showModal();
    this.#move(SPLITS.both);
    this.#draw();
    await Promise.all(this.#sides.map((side) => this.#load(side)));
  }

  async #load(side) {
    let file;
    try {
      file = await fileOf(this.api, side.entry);
      side.pixels = await pixelsOf(file);
    } catch (error) {
      side.wrong = error.message;
    }
    if (!this.#sides.includes(side)) return; // closed meanwhile
    if (side.pixels) side.address = URL.createObjectURL(file);
    this.#draw();
  }

  #act(act) {
    if (act === "swap") {
      this.#sides.reverse();
      return this.#draw();
    }
    this.dialog.close();
    const entry = this.#sides[SIDES.indexOf(act)]?.entry;
    if (entry) this.dispatchEvent(new CustomEvent("restore", { detail: entry }));
  }

  #draw() {
    for (const [at, name] of SIDES.entries()) {
      const { entry, address } = this.#sides[at];
      const { caption, alt } = namesOf(entry);
      const image = this.at(name);
      image.alt = `${WORDS[at]}: ${alt}`;
      if (address) image.src = address;
      this.at(`${name}-name`).textContent = caption;
      const known = Object.keys(entry.settings).length > 0;
      this.dialog.querySelector(`[data-act=${name}]`).disabled = !known;
    }
    this.#enlarge();
    this.#tell();
  }

  /** Give both the same box: a whole number of screen pixels for each pixel, if there is room. */
  #enlarge() {
    if (!this.#sides.length) return;
    const sizes = this.#sides.map(measured);
    const [width, height] = [0, 1].map((axis) => Math.max(...sizes.map((size) => size[axis])));
    const { innerHeight } = window;
    const roomHeight = Math.max(innerHeight - OTHERS, innerHeight / 2);
    const roomWidth = this.at("room").clientWidth - PAPER;
    const scale = scaleOf([width, height], [roomWidth, roomHeight]);
    this.frame.style.width = `${width * scale}px`;
    this.frame.style.aspectRatio = `${width} / ${height}`;
  }

  /** Say what differs. */
  #tell() {
    const facts = this.#sides.map((side) => {
      const [width, height] = measured(side);
      const { entry } = side;
      return settingsFacts({ ...entry, width, height }, this.modelOf(entry.settings.model));
    });
    const { differing, same } = differenceOfSettings(...facts);
    const rows = differing.map(([name, ...values]) => {
      const cells = values.map((value) => element("td", {}, value));
      return element("tr", {}, element("th", { scope: "row" }, name), ...cells);
    });
    this.at("rows").replaceChildren(...rows);
    this.at("table").hidden = !rows.length;
    const others = same.length ? `Everything else is the same: ${same.join(", ")}.` : "";
    this.at("same").textContent = rows.length ? others : "The settings are the same.";
    this.at("pixels").textContent = pixelsInWords(this.#sides);
  }

  /** Move the border between the pictures, in percent of the width. */
  #move(split) {
    this.#split = Math.min(Math.max(split, 0), 100);
    this.slider.value = this.#split;
    this.slider.setAttribute("aria-valuetext", `${this.slider.value} %`);
    this.#show(this.#split);
  }

  #show(split) {
    this.frame.style.setProperty("--split", `${split}%`);
    const shown = SIDES.find((side) => SPLITS[side] === split) ?? "both";
    this.dialog.dataset.shown = shown;
    for (const button of this.dialog.querySelectorAll("[data-show]")) {
      button.setAttribute("aria-pressed", button.dataset.show === shown);
    }
  }

  #watchFrame() {
    const { frame } = this;
    const drag = ({ clientX }) => {
      const { left, width } = frame.getBoundingClientRect();
      this.#move((100 * (clientX - left)) / width);
    };
    frame.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      frame.setPointerCapture(event.pointerId);
      drag(event);
    });
    frame.addEventListener("pointermove", (event) => {
      if (frame.hasPointerCapture(event.pointerId)) drag(event);
    });
  }

  /** While the button is held, the picture that shows less is shown whole. */
  #watchFlip() {
    const button = this.at("flip");
    const flip = (held) => {
      button.setAttribute("aria-pressed", held);
      const other = this.#split < SPLITS.both ? SPLITS.left : SPLITS.right;
      this.#show(held ? other : this.#split);
    };
    button.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      button.setPointerCapture(event.pointerId);
      flip(true);
    });
    button.addEventListener("keydown", (event) => {
      if (event.key !== " " && event.key !== "Enter") return;
      event.preventDefault();
      flip(true);
    });
    for (const end of ["lostpointercapture", "keyup", "blur"]) {
      button.addEventListener(end, () => flip(false));
    }
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // of a long touch
  }

  #release() {
    for (const { address } of this.#sides) {
      if (address?.startsWith("blob:")) URL.revokeObjectURL(address);
    }
    for (const name of SIDES) this.at(name).removeAttribute("src");
    this.#sides = [];
  }
}

/** What is written below a picture, and what is told to those who do not see it. */
function namesOf({ file, settings, image, used }) {
  if (file) return { caption: file.name, alt: `the file ${file.name}` };
  const { seed } = settingsOf({ settings, image });
  return {
    caption: `${subjectOf(settings)} · ${seed ?? "no seed"}`,
    alt: describe(drawnWith({ settings, used }), image, "finished"),
  };
}

/** Width and height of a side's picture, as far as they are known. */
function measured({ entry, pixels }) {
  return pixels ? [pixels.width, pixels.height] : sizeOf(undefined, entry);
}

function pixelsInWords(sides) {
  const wrong = sides.flatMap((side, at) => (side.wrong ? [`${WORDS[at]}: ${side.wrong}`] : []));
  if (wrong.length) return `The pixels are not compared. ${wrong.join(" ")}`;
  const [left, right] = sides.map(({ pixels }) => pixels);
  if (!left || !right) return "Loading both pictures.";
  if (left.width !== right.width || left.height !== right.height) {
    return "The sizes differ: both are scaled to the same box, and the pixels are not compared.";
  }
  const { pixels, differing, most } = differenceOfPixels(left.data, right.data);
  const [all, some] = [pixels, differing].map((count) => count.toLocaleString("en"));
  if (!differing) return `Same pixels: all ${all} are equal.`;
  return `${some} of ${all} pixels differ, by at most ${most} of 255 in a channel.`;
}
