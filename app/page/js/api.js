/** Requests to the service: every answer is JSON, a picture or a `Problem`. */

import { pause } from "./stream.js";

/** What the service refused, as RFC 9457 tells it. */
export class Problem extends Error {
  /**
   * @param {Response} response the answer that refuses.
   * @param {object} told its body, or an empty object.
   */
  constructor(response, told) {
    super(told.detail ?? `the service answered ${response.status}`);
    this.name = "Problem";
    this.status = response.status;
    this.title = told.title ?? "Error";
    /** Seconds after which to ask again. */
    this.retryAfter = Number(response.headers.get("Retry-After")) || null;
    /** What is wrong with each field: name -> words. */
    this.fields = new Map(
      (told.errors ?? [])
        .filter((each) => each.pointer)
        .map((each) => [each.pointer.replace(/^#\//, "").split("/")[0], each.detail]),
    );
  }

  /** Whether the same request may succeed later. */
  get passes() {
    return this.status === 408 || this.status === 409 || this.status === 429 || this.status === 503;
  }
}

/** The service cannot be reached. */
export class Unreachable extends Error {
  constructor(cause) {
    super("The service does not answer.", { cause });
    this.name = "Unreachable";
    this.passes = true;
  }
}

/** The service, below the address of the page. */
export class Api {
  /** @param {import("./key.js").KeyRing} keys has the API key, and asks for one. */
  constructor(keys) {
    this.keys = keys;
  }

  /**
   * Ask the service.
   *
   * @param {string} path relative to the page, such as `models`.
   * @param {{method?: string, json?: object, headers?: object, signal?: AbortSignal}} options
   * @returns {Promise<Response>} an answer of success.
   * @throws {Problem} the service refuses.
   * @throws {Unreachable} there is no answer.
   */
  async request(path, { method = "GET", json, headers = {}, signal } = {}) {
    for (;;) {
      const key = this.keys.key;
      const response = await this.#fetch(path, {
        method,
        signal,
        headers: {
          ...(json ? { "Content-Type": "application/json" } : {}),
          ...(key ? { "X-API-Key": key } : {}),
          ...headers,
        },
        body: json && JSON.stringify(json),
      });
      if (response.ok) return response;
      const told = await response.json().catch(() => ({}));
      const asked = response.status === 401 && (await this.keys.ask(key, told.detail));
      if (!asked) throw new Problem(response, told);
    }
  }

  /** The answer as JSON; throws as `request` does. */
  async json(path, options) {
    return (await this.request(path, options)).json();
  }

  /**
   * An address that an `<img>` can show. With a key it is a blob's, which the caller revokes.
   *
   * @param {string} path relative to the page.
   * @returns {Promise<string>}
   * @throws as `request` does, with a key.
   */
  async picture(path) {
    return this.keys.key ? URL.createObjectURL(await this.file(path)) : path;
  }

  /**
   * Show a picture. An `<img>` does not say why it shows nothing: then the file is asked for.
   *
   * @param {string} path relative to the page.
   * @param {(address: string) => Promise<void>} show fails where the address shows no picture.
   * @returns {Promise<string>} the address that is shown; a blob's is for the caller to revoke.
   * @throws {DOMException} it is no picture; otherwise as `request` does.
   */
  async show(path, show) {
    const address = await this.picture(path);
    try {
      await show(address);
      return address;
    } catch (error) {
      if (!address.startsWith("blob:")) return this.#showFile(path, show);
      URL.revokeObjectURL(address);
      throw error;
    }
  }

  /** Show a picture as `show` does; a service that is away or full is asked again. */
  async showAtLast(path, show) {
    for (let wait = 1000; ; wait = Math.min(2 * wait, 8000)) {
      try {
        return await this.show(path, show);
      } catch (error) {
        if (!error.passes) throw error;
      }
      await pause(wait);
    }
  }

  /** A file as a blob; throws as `request` does. */
  async file(path) {
    return (await this.request(path, { headers: { Accept: "image/png" } })).blob();
  }

  async #showFile(path, show) {
    const file = URL.createObjectURL(await this.file(path));
    await show(file);
    return file;
  }

  async #fetch(path, options) {
    try {
      return await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Unreachable(error);
    }
  }
}
