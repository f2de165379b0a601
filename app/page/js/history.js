/**
 * The entries of pictures that were drawn, kept in this browser:
 * `{id, settings, image, url, created, seconds, starred, thumbnail, width, height, status, error}`.
 * `used` has the settings that came out otherwise. Those of a contact sheet have its id as `sheet`.
 */

import { entriesOf, fileOf } from "./archive.js";
import { IndexedStore, MemoryStore } from "./stores.js";

const NAME = "darkroom";
const MOST = { count: 2000, bytes: 64 * 1024 * 1024 }; // entries, and bytes of thumbnails and texts

/** Entries of a page, if nothing else is said. */
export const PAGE = 60;

/** All entries of this browser, newest first. */
export class History {
  /** Why entries are gone when the page is closed, for people; null if they are kept. */
  reason = null;
  #store;
  #most;

  /**
   * Opens the history. It never fails: where the browser refuses, entries are kept in memory, and
   * `reason` says so.
   *
   * @param {{factory?: IDBFactory, name?: string, most?: {count: number, bytes: number}}} [options]
   *   - The browser's IndexedDB, the database, and how much is kept.
   * @returns {Promise<History>} The history.
   */
  static async open({ factory = browserFactory(), name = NAME, most = MOST } = {}) {
    const history = new History();
    history.#most = most;
    try {
      if (!factory) throw new Error("there is no IndexedDB");
      history.#store = await IndexedStore.open(factory, name);
    } catch (error) {
      history.#forget(error);
    }
    return history;
  }

  /**
   * Adds an entry, or replaces the one of its id. Beyond the bounds, the oldest entries without a
   * star go, and then the oldest with one.
   *
   * @param {object} entry - Its `id` is a text and `created` is in milliseconds.
   */
  async put(entry) {
    const record = recordOf(entry);
    await this.#trying(async (store) => {
      try {
        await store.put(record, this.#most);
      } catch (error) {
        if (error?.name !== "QuotaExceededError") throw error;
        await store.shrink({ count: this.#most.count / 2, bytes: this.#most.bytes / 2 });
        await store.put(record, this.#most);
      }
    });
  }

  /**
   * @param {string} id - Of an entry.
   * @returns {Promise<object|undefined>} The entry, if it is kept.
   */
  async get(id) {
    return (await this.#trying((store) => store.get(id)))?.entry;
  }

  /**
   * A page of entries, newest first.
   *
   * @param {{words?: string, model?: string, class?: string, sampler?: string, seed?: number,
   *   starred?: boolean, sheet?: boolean}} [wanted] - What entries must be; what is absent does not
   *   matter. Every one of the words is in the prompts, the class, the model, the sampler or the
   *   seed. `sheet` is whether they are pictures of a contact sheet.
   * @param {{after?: *, limit?: number}} [range] - The `next` of the page before, and the most
   *   entries.
   * @returns {Promise<{entries: object[], next: *}>} The entries; `next` is null at the end.
   */
  async search(wanted = {}, { after = null, limit = PAGE } = {}) {
    const matches = matching(wanted);
    const found = (await this.#trying((store) => store.page(after, limit + 1, matches))) ?? [];
    const shown = found.slice(0, limit);
    const last = shown.at(-1);
    return {
      entries: shown.map((record) => record.entry),
      next: found.length > limit ? [last.created, last.id] : null,
    };
  }

  /**
   * Gives an entry a star, or takes it away.
   *
   * @param {string} id - Of an entry; nothing happens if it is not kept.
   * @param {boolean} starred - Whether it has one.
   */
  async star(id, starred) {
    const entry = await this.get(id);
    if (entry) await this.put({ ...entry, starred });
  }

  /**
   * Removes an entry.
   *
   * @param {string} id - Of an entry; nothing happens if it is not kept.
   */
  async delete(id) {
    await this.#trying((store) => store.remove(id));
  }

  /**
   * @returns {Promise<Blob>} All entries as JSON, which `import` reads.
   */
  async export() {
    return fileOf(this.#pages());
  }

  /**
   * Adds the entries of an export; those whose ids are kept already stay as they are.
   *
   * @param {string} text - What `export` gave, or a stranger's file.
   * @returns {Promise<{added: number, skipped: number}>} Entries that are new, and others.
   * @throws {UnreadableHistory} It is no export, or has seeds that a browser rounds.
   */
  async import(text) {
    const entries = entriesOf(text);
    let added = 0;
    for (const entry of entries) {
      if (!entry || (await this.get(entry.id))) continue;
      await this.put(entry);
      added += 1;
    }
    return { added, skipped: entries.length - added };
  }

  async *#pages() {
    let after = null;
    do {
      const { entries, next } = await this.search({}, { after });
      if (entries.length) yield entries;
      after = next;
    } while (after);
  }

  async #trying(action) {
    try {
      return await action(this.#store);
    } catch (error) {
      this.#forget(error);
      return action(this.#store);
    }
  }

  #forget(error) {
    this.#store = new MemoryStore();
    const why = error?.message || error?.name || "it failed";
    this.reason = `This browser keeps no history (${why}); it is gone when the page is closed.`;
  }
}

/**
 * Asks the browser not to clear the history when it needs room. To be called on a click.
 *
 * @returns {Promise<boolean>} Whether it promised that.
 */
export async function persist() {
  try {
    return (await navigator.storage?.persist?.()) ?? false;
  } catch {
    return false;
  }
}

function browserFactory() {
  try {
    return globalThis.indexedDB;
  } catch {
    return undefined; // some browsers throw where cookies are refused
  }
}

function recordOf(entry) {
  const { thumbnail, ...rest } = entry;
  const bytes = (thumbnail?.size ?? thumbnail?.length ?? 0) + JSON.stringify(rest).length;
  return { id: entry.id, created: entry.created, rank: entry.starred ? 1 : 0, bytes, entry };
}

function matching({ words = "", starred, sheet, ...fields }) {
  const needed = words.toLowerCase().split(/\s+/).filter(Boolean);
  const exact = Object.entries(fields).filter(([, value]) => value !== undefined && value !== "");
  return ({ settings = {}, starred: has, sheet: of }) => {
    if (starred !== undefined && Boolean(has) !== starred) return false;
    if (sheet !== undefined && Boolean(of) !== sheet) return false;
    if (exact.some(([name, value]) => String(settings[name]) !== String(value))) return false;
    if (!needed.length) return true;
    const { prompt, negative_prompt: negative, class: label, model, sampler, seed } = settings;
    const said = [prompt, negative, label, model, sampler, seed].join("\n").toLowerCase();
    return needed.every((word) => said.includes(word));
  };
}
