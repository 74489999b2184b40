// What was spent: totals, a chart, the biggest, and a search for one.
import { h, visible } from "./dom.js";
import { board } from "./board.js";
import { call, withQuery } from "./api.js";
import { dollarText, entityPath, named, typeName } from "./format.js";

export function showSpend(place, _, query, signal) {
  place.append(h("h1", {}, "Spend"), search());
  return board(place, {
    path: "/spend", whose: {}, lists: ["model", "custom_llm_provider", "team_id", "user_id", "api_key", "tag"],
    more: ["organization_id", "end_user_id", "agent_id", "endpoint"],
  }, query, signal);
}

// search is a combobox: arrows choose a suggestion, Enter goes there.
function search() {
  const list = h("ul.options", { id: "found", role: "listbox", "aria-label": "Suggestions", hidden: true });
  const box = h("input", { id: "search", type: "search", role: "combobox", autocomplete: "off", "aria-autocomplete": "list",
    "aria-expanded": "false", "aria-controls": "found", placeholder: "team-1, a user, a key …" });
  const says = h("p.hint", { role: "status" });
  let found = [], asked = "", at = -1, timer, asking = new AbortController();
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
      h("span.number", {}, dollarText(e.spend)))));
    at = -1;
    list.hidden = !found.length;
    box.setAttribute("aria-expanded", String(found.length > 0));
    says.textContent = found.length ? `${found.length} found` : box.value ? "Nothing begins like this." : "";
  };
  const ask = async () => {
    asking.abort();
    asking = new AbortController();
    const { signal } = asking;
    try {
      const answer = box.value ? await call(withQuery("/v1/entities", { q: box.value, limit: 100 }), { signal }) : { entities: [] };
      if (signal.aborted) return;
      const rank = (e) => (e.entity_id === box.value ? 0 : 2) + (e.entity_type === "team_member" ? 1 : 0); // a user before its teams
      found = answer.entities.sort((a, b) => rank(a) - rank(b)).slice(0, 12);
      asked = box.value;
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
  return h("search.search", {}, h("label", { for: "search" }, "Find a team, user, key, tag …"), h("div.combo", {}, box, list), says);
}
