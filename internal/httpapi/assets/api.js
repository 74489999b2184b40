// The API of this instance. Failures are Problems, with what the API says of them.

// at is where a path of the API is served: below the address of the page, which may have a path before it.
export const at = (path) => new URL(`.${path}`, document.baseURI).href;

export class Problem extends Error {
  constructor(status, document, after) {
    super(document.detail || document.title || `The answer is ${status}.`);
    this.status = status;
    this.title = document.title;
    this.type = document.type;
    this.after = after;
  }
}

// signedOut is called when the API wants to know who asks, refused when the token lacks a role.
export const on = { signedOut() {}, refused() {} };

export async function call(path, { method = "GET", body, signal } = {}) {
  let response;
  try {
    response = await fetch(at(path), {
      method, signal, headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, { title: "This instance doesn't answer", detail: "It may be restarting, or the network is away." });
  }
  const text = await response.text();
  let document = {};
  try { document = text ? JSON.parse(text) : {}; } catch { /* told by its status */ }
  if (response.ok) return document;
  const problem = new Problem(response.status, document, Number(response.headers.get("Retry-After")) || 1);
  if (response.status === 401 && path !== "/v1/session") on.signedOut();
  if (document.role) on.refused();
  throw problem;
}

// Reports are heavy, and an instance makes only a few at once: the page asks for one after the other.
let turn = Promise.resolve();

export function report(path, query, signal) {
  const mine = turn.then(async () => {
    for (let attempt = 1; ; attempt++) {
      signal?.throwIfAborted();
      try {
        return await call(withQuery(path, query), { signal });
      } catch (error) {
        if (error.status !== 503 || attempt === 3) throw error;
        await new Promise((done) => setTimeout(done, error.after * 1000));
      }
    }
  });
  turn = mine.catch(() => {});
  return mine;
}

export function withQuery(path, query) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== "");
  return given.length ? `${path}?${new URLSearchParams(given)}` : path;
}
