// All that were ever booked of a kind, page by page as the API has them, and a search within their names.
import { h, fill, table } from "./dom.js";
import { call, withQuery } from "./api.js";
import { alignedMoney, count, entityLink, showExact, when, TYPES } from "./format.js";

const PAGE = 50;

const plural = (type) => `${TYPES[type]}s`;

export const typeOf = (rest) => (Object.hasOwn(TYPES, rest) ? rest : null);
export const titleOfEntities = (rest) => plural(rest);

export function showEntities(place, type, query, signal) {
  let before = [], at = {}, behind = null, turn = new AbortController(); // where the pages before the one that is shown begin, it, and the next
  const address = (change) => withQuery(`#/entities/${type}`, { ...at, ...change });
  const kind = h("select", { id: "kind", onchange: (event) => { location.hash = withQuery(`#/entities/${event.target.value}`, { q: at.q }); } },
    Object.keys(TYPES).map((name) => h("option", { value: name, selected: name === type }, plural(name))));
  const box = h("input", { id: "within", type: "search", autocomplete: "off" });
  let timer;
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => { before = []; location.hash = address({ q: box.value, after: undefined }); }, 250);
  });
  signal.addEventListener("abort", () => clearTimeout(timer));
  const part = h("div");
  showExact(false);
  place.append(h("p.back", {}, h("a", { href: "#/spend" }, "← Spend")), h("h1", {}, "Everybody who ever spent something"),
    h("div.controls", {}, h("label", {}, h("span", {}, "Kind"), kind)),
    h("search.search", {}, h("label", { for: "within" }, "Find within the names"), h("div.combo", {}, box)), part);

  const goOn = () => { before.push(at.after); location.hash = address({ after: behind }); };
  const goBack = () => { location.hash = address({ after: before.pop() }); };

  async function load(mine) {
    const answer = await call(withQuery("/v1/entities", { entity_type: type, limit: PAGE, ...(at.q ? { contains: at.q } : { order_by: "id" }), after: at.after }), { signal: mine });
    const found = answer.entities, align = alignedMoney(found.map((e) => e.spend));
    behind = answer.next;
    const isPart = answer.next && found.length < PAGE; // a search looks at so many names at once
    return [
      table(plural(type), [
        { name: TYPES[type], wide: true, cell: entityLink }, { name: "Spent so far", number: true, cell: (e) => align(e.spend) },
        { name: "Requests", number: true, cell: (e) => count(e.api_requests) }, { name: "Last booked", cell: (e) => when(e.updated_at) },
      ], found, { titled: true, empty: answer.next ? "None among the names that were looked at so far." : at.q ? "No name has this in it." : "There are none." }),
      isPart && h("p.hint", {}, "There are more names than are searched at once."),
      (at.after || answer.next) && h("nav.pages", { "aria-label": "Pages" },
        h("button", { type: "button", disabled: !at.after, onclick: goBack }, before.length || !at.after ? "Previous" : "First"),
        h("button", { type: "button", disabled: !answer.next, onclick: goOn }, isPart ? "Search on" : "Next")),
    ];
  }

  function show(next) {
    at = { q: next.get("q") || undefined, after: next.get("after") || undefined };
    if (!at.after) before = [];
    if (document.activeElement !== box) box.value = at.q ?? "";
    turn.abort();
    turn = new AbortController();
    const mine = AbortSignal.any([signal, turn.signal]);
    fill(part, plural(type), () => load(mine), mine);
  }
  show(query);
  return show;
}
