// Sends updates to spendflush, so that each counts once whatever happens to a request.
//
// Every update has an id before it is sent for the first time, and is sent again, to the next address, until an
// instance has said that it is committed. One file, Node.js 18 or newer, no dependencies.
//
//     const client = new Client(["http://10.0.0.1:4180", "http://10.0.0.2:4180"], { token: "..." });
//     client.record({ spend: "0.0123", api_key: "sk-1", model: "gpt-5" });
//     await client.close(); // what is left when the event loop is empty is sent by itself, but not at process.exit()

import { randomUUID } from "node:crypto";

const MOST_BYTES = 4 << 20; // of a body, half of what an instance takes
const FIRST_PAUSE = 100, MOST_PAUSE = 10_000; // ms

/** As many updates wait as maxPending allows. */
export class FullError extends Error {}

/** The client is closed. */
export class ClosedError extends Error {}

/**
 * Sends updates in the background.
 *
 * @param {string[]} urls addresses of the instances; a failed request goes on to the next one
 * @param {object} [options]
 * @param {string} [options.token] of the role write
 * @param {number} [options.maxPending] updates that wait at once, beyond which record throws FullError
 * @param {number} [options.maxBatch] updates of one request, 1 to 10,000
 * @param {number} [options.interval] ms that the first update of a request waits for others
 * @param {number} [options.requests] requests under way at once
 * @param {number} [options.timeout] ms of one request, over 1,000
 * @param {(update: object, reason: string) => void} [options.refused] called for each update that the instances will
 *     never take; else it is written to console.error
 */
export class Client {
  #urls; #token; #maxPending; #maxBatch; #interval; #requests; #timeout; #refused;
  #pending = []; // not taken by a request yet: { update, text }
  #first = 0; // since when the first of them waits
  #sending = 0; // updates in requests under way
  #senders = 0; // requests under way
  #turn = 0; // whose address is next
  #timer;
  #hurry = 0; // calls of flush under way
  #closed = false;
  #stop = new AbortController();
  #waiting = []; // called when nothing is left
  #onExit = () => { if (this.#pending.length || this.#sending) void this.flush(); };

  constructor(urls, { token, maxPending = 100_000, maxBatch = 1000, interval = 1000, requests = 2, timeout = 30_000, refused } = {}) {
    if (!Array.isArray(urls) || urls.length === 0) throw new TypeError("urls must be a list of at least one address of an instance");
    if (!(maxPending >= 1 && maxBatch >= 1 && maxBatch <= 10_000 && requests >= 1)) {
      throw new RangeError("maxPending and requests must be at least 1, and maxBatch 1 to 10,000");
    }
    if (!(interval >= 0 && timeout > 1000)) throw new RangeError("interval must not be negative, and timeout over 1000 ms");
    const wait = Math.min(Math.floor(0.75 * timeout), 60_000); // so that the instance answers before the request ends
    this.#urls = urls.map((url) => {
      const { protocol } = new URL(url); // throws a TypeError that names it
      if (protocol !== "http:" && protocol !== "https:") throw new TypeError(`urls has ${url}; want http://HOST:PORT or https://...`);
      return `${url.replace(/\/+$/, "")}/v1/updates?ack=committed&timeout=${wait}ms`;
    });
    this.#token = token;
    this.#maxPending = maxPending;
    this.#maxBatch = maxBatch;
    this.#interval = interval;
    this.#requests = requests;
    this.#timeout = timeout;
    this.#refused = refused ?? ((update, reason) => console.error("spendflush: an update is refused, and is not counted:", reason, update));
    process.on("beforeExit", this.#onExit);
  }

  /**
   * Takes an update, which the client sends soon, and returns its id. It has the fields of POST /v1/updates; write
   * amounts as strings. One without id gets a random one, and one without time the present.
   */
  record(update) {
    if (this.#closed) throw new ClosedError("the client is closed");
    if (this.#pending.length + this.#sending >= this.#maxPending) throw new FullError(`${this.#maxPending} updates wait`);
    const own = { ...update, id: update.id ?? randomUUID(), time: update.time ?? new Date().toISOString() };
    const text = JSON.stringify(own);
    if (this.#pending.length === 0) this.#first = performance.now();
    this.#pending.push({ update: JSON.parse(text), text });
    this.#look();
    return own.id;
  }

  /** Waits until all that was recorded is committed or refused, for at most timeout ms. Says whether it is. */
  async flush(timeout = Infinity) {
    if (!this.#pending.length && !this.#sending) return true;
    this.#hurry++;
    let timer;
    const done = new Promise((resolve) => {
      this.#waiting.push(() => resolve(true));
      if (timeout !== Infinity) timer = setTimeout(() => resolve(false), timeout);
    });
    this.#look();
    const all = await done;
    clearTimeout(timer);
    this.#hurry--;
    return all;
  }

  /**
   * Takes no more updates, sends what is left for at most timeout ms, and stops. Returns the updates that aren't known
   * to be committed. They have their ids, so that they may be recorded again, by any client, within the window of ids.
   */
  async close(timeout = 30_000) {
    this.#closed = true;
    await this.flush(timeout);
    this.#stop.abort();
    clearTimeout(this.#timer);
    process.off("beforeExit", this.#onExit);
    while (this.#senders) await new Promise((resolve) => setTimeout(resolve, 1));
    return this.#pending.map((one) => one.update);
  }

  // look begins requests where it is time for them.
  #look() {
    clearTimeout(this.#timer);
    while (this.#pending.length && this.#senders < this.#requests && !this.#stop.signal.aborted) {
      const wait = this.#first + this.#interval - performance.now();
      if (this.#pending.length < this.#maxBatch && !this.#hurry && wait > 0) {
        this.#timer = setTimeout(() => this.#look(), wait);
        return;
      }
      const batch = this.#pending.splice(0, this.#maxBatch);
      this.#first = performance.now();
      this.#sending += batch.length;
      this.#senders++;
      void this.#send(batch);
    }
  }

  async #send(batch) {
    let left = batch, at = this.#turn++, pause = FIRST_PAUSE;
    while (left.length && !this.#stop.signal.aborted) {
      const tried = await this.#try(this.#urls[at % this.#urls.length], left);
      left = tried.left;
      if (tried.after === undefined) {
        pause = FIRST_PAUSE;
        continue;
      }
      at++;
      await this.#sleep(Math.max(tried.after, Math.random() * pause));
      pause = Math.min(2 * pause, MOST_PAUSE);
    }
    this.#sending -= batch.length;
    this.#senders--;
    this.#pending.unshift(...left);
    if (!this.#pending.length && !this.#sending) this.#waiting.splice(0).forEach((done) => done());
    this.#look();
  }

  #sleep(ms) {
    const { signal } = this.#stop;
    return new Promise((resolve) => {
      const end = () => { clearTimeout(timer); signal.removeEventListener("abort", end); resolve(); };
      const timer = setTimeout(end, ms);
      signal.addEventListener("abort", end);
    });
  }

  // try makes one request. left is what is still to be sent; after says, if it failed for a reason that isn't the
  // updates', for how many ms the instance wants to be left alone.
  async #try(url, batch) {
    let n = 0;
    for (let size = 0; n < batch.length; n++) {
      size += Buffer.byteLength(batch[n].text) + 1;
      if (n && size > MOST_BYTES) break;
    }
    let response, answer;
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), this.#timeout); // unlike AbortSignal.timeout it keeps the process
    try {
      const headers = { "Content-Type": "application/json" };
      if (this.#token) headers.Authorization = `Bearer ${this.#token}`;
      response = await fetch(url, {
        method: "POST", headers, body: `[${batch.slice(0, n).map((one) => one.text).join(",")}]`, redirect: "error",
        signal: abort.signal,
      });
      answer = await response.text();
    } catch {
      return { left: batch, after: 0 };
    } finally {
      clearTimeout(timer);
    }
    const { status } = response;
    if (status >= 200 && status < 300) return { left: batch.slice(n) };
    if (status === 408 || status === 429 || status >= 500) {
      const after = Number(response.headers.get("Retry-After") ?? 0);
      return { left: batch, after: after > 0 ? Math.min(after, 60) * 1000 : 0 };
    }

    let problem = {};
    try { problem = JSON.parse(answer); } catch { /* it is no problem document */ }
    const title = problem.title ?? `status ${status}`;
    if (problem.errors?.length && (status === 400 || status === 422)) {
      const named = new Map();
      for (const e of problem.errors) if (!named.has(e.index)) named.set(e.index, `${title} ${e.field ?? ""} ${e.detail ?? ""}`);
      for (const [index, reason] of named) this.#refuse(batch[index].update, reason);
      return { left: batch.filter((_, index) => !named.has(index)) };
    }
    if ((status === 400 || status === 413) && n > 1) { // one of them, and it isn't said which
      const half = Math.floor(n / 2);
      const tried = await this.#try(url, batch.slice(0, half));
      return { left: [...tried.left, ...batch.slice(half)], after: tried.after };
    }
    if (status === 400 || status === 413 || status === 422) {
      this.#refuse(batch[0].update, `${title} ${problem.detail ?? ""}`);
      return { left: batch.slice(1) };
    }
    console.error(`spendflush: ${new URL(url).host} refuses requests of this client; they are tried again: ${status} ${title} ${problem.detail ?? ""}`);
    return { left: batch, after: MOST_PAUSE };
  }

  #refuse(update, reason) {
    try {
      this.#refused(update, reason);
    } catch (error) {
      console.error("spendflush: refused has failed:", error);
    }
  }
}
