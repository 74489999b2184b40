// What was spent: totals, a chart, the biggest, and a search for one.
import { h, visible } from "./dom.js";
import { board } from "./board.js";
import { call, withQuery } from "./api.js";
import { entityPath, moneyText, named, typeName } from "./format.js";

export function showSpend(place, _, query, signal) {
  place.append(h("h1", {}, "Spend"), searchBox());
  return board(place, {
    path: "/spend", whose: {}, lists: ["model", "custom_llm_provider", "team_id", "user_id", "api_key", "tag"],
    more: ["organization_id", "end_user_id", "agent_id", "endpoint"],
  }, query, signal);
}

const MOST = 12; // suggestions

// search finds what begins with a text, which an index knows, and if that is little also what has it within.
async function search(text, signal) {
  if (!text) return { entities: [] };
  const begin = await call(withQuery("/v1/entities", { q: text, limit: 100 }), { signal });
  if (begin.entities.length >= MOST) return begin;
  const within = await call(withQuery("/v1/entities", { contains: text, limit: 100 }), { signal });
  const known = new Set(begin.entities.map(entityPath));
  return { entities: [...begin.entities, ...within.entities.filter((e) => !known.has(entityPath(e)))], complete: within.complete };
}

// searchBox is a combobox: arrows choose a suggestion, Enter goes there.
function searchBox() {
  const list = h("ul.options", { id: "found", role: "listbox", "aria-label": "Suggestions", hidden: true });
  const box = h("input", { id: "search", type: "search", role: "combobox", autocomplete: "off", "aria-autocomplete": "list",
    "aria-expanded": "false", "aria-controls": "found", placeholder: "team-1, a user, a key …" });
  const says = h("p.hint", { role: "status" });
  let found = [], complete = true, asked = "", at = -1, timer, asking = new AbortController();
  const close = () => {
    list.hidden = true;
    box.setAttribute("aria-expanded", "false");
    box.removeAttribute("aria-activedescendant");
  };
  const go = (e) => { location.hash = `#/entity/${entityPath(e)}`; };
  const mark = () => {
    [...list.children].forEach((option, i) => option.setAttribute("aria-selected", String(i === at)));
    if (at >= 0) box.setAttribute("aria-activedescendant", `found-${at}`);
  };
  const show = () => {
    list.replaceChildren(...found.map((e, i) => h("li", { id: `found-${i}`, role: "option", "aria-selected": "false", onmousedown: () => go(e) },
      h("span.chip", {}, typeName(e.entity_type)), h("span.name", {}, named(e)),
      h("span.number", {}, moneyText(e.spend)))));
    at = -1;
    list.hidden = !found.length;
    box.setAttribute("aria-expanded", String(found.length > 0));
    says.textContent = !box.value ? "" : `${found.length || "None"} found${complete ? "" : ", in a part of the names: there are too many to search them all at once"}`;
  };
  const ask = async () => {
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    try {
      const text = box.value;
      const answer = await search(text, signal);
      if (signal.aborted) return;
      // What is called so, what begins so, what has it within; a user before its teams.
      const rank = (e) => (e.entity_id === text ? 0 : e.entity_id.startsWith(text) ? 2 : 4) + (e.entity_type === "team_member" ? 1 : 0);
      found = answer.entities.sort((a, b) => rank(a) - rank(b)).slice(0, MOST);
      complete = answer.complete ?? true;
      asked = text;
      show();
    } catch (error) {
      if (!signal.aborted) says.textContent = visible(error.message);
    }
  };
  box.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(ask, 150); });
  box.addEventListener("blur", close);
  box.addEventListener("keydown", async (event) => {
    if (event.key === "Escape") return close();
    if (event.key === "Enter") {
      event.preventDefault();
      clearTimeout(timer);
      if (asked !== box.value) await ask(); // Enter came before the suggestions
      if (asked === box.value && found.length) go(found[Math.max(0, at)]);
      return;
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !found.length) return;
    event.preventDefault();
    at = (at + step + found.length) % found.length;
    mark();
  });
  return h("search.search", {}, h("label", { for: "search" }, "Find a team, user, key, tag …"), h("div.combo", {}, box, list), says,
    h("p.hint", {}, h("a", { href: "#/entities/team" }, "Everybody who ever spent something")));
}
