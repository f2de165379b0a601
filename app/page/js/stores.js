/**
 * Where history is kept: in the browser's IndexedDB, or in memory where that is refused. Both have
 * the same methods. A record is `{id, created, rank, bytes, entry}`; those of the lowest rank, and
 * of these the oldest, make room first.
 */

const RECORDS = "records";
const TOTALS = "totals";
const TOTAL = "all"; // the key of the one record in TOTALS: {count, bytes}
const OPENING_MS = 5000; // some browsers never answer
const NONE = { count: 0, bytes: 0 };

/** Records in IndexedDB. Every method gives a promise, which fails as IndexedDB does. */
export class IndexedStore {
  #database;

  /**
   * @param {IDBFactory} factory - Of the browser.
   * @param {string} name - Of the database.
   * @returns {Promise<IndexedStore>} The store; it fails if the browser refuses or does not answer.
   */
  static async open(factory, name) {
    const request = factory.open(name, 1);
    request.onupgradeneeded = () => {
      const records = request.result.createObjectStore(RECORDS, { keyPath: "id" });
      records.createIndex("created", ["created", "id"]);
      records.createIndex("leaving", ["rank", "created", "id"]);
      request.result.createObjectStore(TOTALS);
    };
    const late = new Promise((_, fail) => {
      setTimeout(() => fail(new Error("the browser does not open it")), OPENING_MS);
    });
    const store = new IndexedStore();
    store.#database = await Promise.race([answerOf(request), late]);
    store.#database.onversionchange = () => store.#database.close();
    return store;
  }

  /** Adds or replaces a record, and lets others go until all are within `most`. */
  async put(record, most) {
    await this.#write(async (records, totals) => {
      await this.#remove(records, totals, record.id);
      await answerOf(records.put(record));
      await this.#add(totals, 1, record.bytes);
      await this.#shrink(records, totals, most, record.id);
    });
  }

  /** The record of an id, or undefined. */
  async get(id) {
    return answerOf(this.#transaction("readonly").objectStore(RECORDS).get(id));
  }

  /** Removes the record of an id, if there is one. */
  async remove(id) {
    await this.#write((records, totals) => this.#remove(records, totals, id));
  }

  /** Lets records go until all are within `most`: `{count, bytes}`. */
  async shrink(most) {
    await this.#write((records, totals) => this.#shrink(records, totals, most));
  }

  /** Up to `limit` records that match, the newest first, from before `[created, id]`. */
  async page(before, limit, matches) {
    const index = this.#transaction("readonly").objectStore(RECORDS).index("created");
    const range = before && IDBKeyRange.upperBound(before, true);
    const found = [];
    const request = index.openCursor(range, "prev");
    let cursor = await answerOf(request);
    while (cursor && found.length < limit) {
      if (matches(cursor.value.entry)) found.push(cursor.value);
      cursor.continue();
      cursor = await answerOf(request);
    }
    return found;
  }

  #transaction(mode) {
    return this.#database.transaction([RECORDS, TOTALS], mode);
  }

  async #write(change) {
    const transaction = this.#transaction("readwrite");
    const done = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error ?? new Error("the change was undone"));
    });
    const stores = [RECORDS, TOTALS].map((name) => transaction.objectStore(name));
    const changed = change(...stores).catch((error) => {
      if (!transaction.error) transaction.abort(); // or half of the change would stay
      throw error;
    });
    await Promise.all([changed, done]);
  }

  async #add(totals, count, bytes) {
    const before = (await answerOf(totals.get(TOTAL))) ?? NONE;
    const after = { count: before.count + count, bytes: before.bytes + bytes };
    await answerOf(totals.put(after, TOTAL));
    return after;
  }

  async #remove(records, totals, id) {
    const record = await answerOf(records.get(id));
    if (!record) return;
    await answerOf(records.delete(id));
    await this.#add(totals, -1, -record.bytes);
  }

  async #shrink(records, totals, most, kept) {
    let total = (await answerOf(totals.get(TOTAL))) ?? NONE;
    if (isWithin(total, most)) return;
    const request = records.index("leaving").openCursor();
    let cursor = await answerOf(request);
    while (cursor && !isWithin(total, most)) {
      if (cursor.value.id !== kept) {
        await answerOf(cursor.delete());
        total = await this.#add(totals, -1, -cursor.value.bytes);
      }
      cursor.continue();
      cursor = await answerOf(request);
    }
  }
}

/** Records in memory, for as long as the page is open; the methods are those of IndexedStore. */
export class MemoryStore {
  #records = new Map();

  async put(record, most) {
    this.#records.set(record.id, record);
    await this.shrink(most, record.id);
  }

  async get(id) {
    return this.#records.get(id);
  }

  async remove(id) {
    this.#records.delete(id);
  }

  async shrink(most, kept) {
    const total = { ...NONE };
    for (const { bytes } of this.#records.values()) {
      total.count += 1;
      total.bytes += bytes;
    }
    if (isWithin(total, most)) return;
    const leaving = [...this.#records.values()].sort((a, b) => a.rank - b.rank || order(a, b));
    for (const { id, bytes } of leaving) {
      if (isWithin(total, most)) return;
      if (id === kept) continue;
      this.#records.delete(id);
      total.count -= 1;
      total.bytes -= bytes;
    }
  }

  async page(before, limit, matches) {
    const [created, id] = before ?? [Infinity, ""];
    return [...this.#records.values()]
      .filter((record) => order(record, { created, id }) < 0 && matches(record.entry))
      .sort((a, b) => order(b, a))
      .slice(0, limit);
  }
}

function order(one, other) {
  return one.created - other.created || (one.id < other.id ? -1 : Number(one.id > other.id));
}

function isWithin(total, most) {
  return total.count <= most.count && total.bytes <= most.bytes;
}

/** What a request of IndexedDB gives next; of a cursor, once for each time it goes on. */
function answerOf(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
