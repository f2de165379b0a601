/** Previews in an image element: of those that come, the newest is shown, once a frame at most. */

/** Previews of one picture. */
export class Developing {
  #newest = -1; // step of the newest preview
  #waiting = null; // the preview that is shown next
  #showing = false;
  #over = false;

  /** @param {HTMLImageElement} image that shows them. */
  constructor(image) {
    this.image = image;
  }

  /**
   * Show a preview, unless a newer one was shown.
   *
   * @param {number} step of the sampler.
   * @param {string} url
   */
  show(step, url) {
    if (step <= this.#newest || this.#over) return;
    this.#newest = step;
    this.#waiting = url;
    if (!this.#showing) this.#showAll();
  }

  /**
   * Show the picture itself, and no preview after it.
   *
   * @param {string} url of the picture, or of its thumbnail.
   * @throws {DOMException} it is no picture.
   */
  async finish(url) {
    this.stop();
    await decoded(url);
    this.image.src = url;
  }

  /** Show nothing any more. */
  stop() {
    this.#over = true;
  }

  async #showAll() {
    this.#showing = true;
    while (this.#waiting && !this.#over) {
      const url = this.#waiting;
      this.#waiting = null;
      try {
        await decoded(url);
        if (!this.#over) this.image.src = url;
      } catch {
        // the next preview, or the picture, is shown instead
      }
      await nextFrame();
    }
    this.#showing = false;
  }
}

/** Soon: when the browser paints next, or in a hidden page after a while. */
function nextFrame() {
  return new Promise((resolve) => {
    requestAnimationFrame(resolve);
    setTimeout(resolve, 200);
  });
}

/** A picture that the browser has read; throws a DOMException if it is none. */
export async function decoded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
}
