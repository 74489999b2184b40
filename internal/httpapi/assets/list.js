// Everybody, or everything, of a kind that spent something in a time: all of them, page by page.
import { h, fill, id, renew, table } from "./dom.js";
import { report } from "./api.js";
import { controls } from "./controls.js";
import { entityOf } from "./entity.js";
import { alignedMoney, count, counted, decimal, money, named, showExact, typeName, units, HOW_ROUNDED } from "./format.js";
import { bounds, sayDates, scopeOf, GROUPS } from "./scope.js";
import { csvAddress, linkOf, shiftNote } from "./usage.js";

const PAGE = 50;
const MOST = 1000; // rows, where there are too many for all

// listOf reads the rest of the address of the view: a group, and the entity whose usage it is, if it isn't that of all.
export function listOf(rest) {
  const [group, ...whose] = rest.split("/");
  const entity = whose.length ? entityOf(whose.join("/")) : {};
  return group && Object.hasOwn(GROUPS, group) && entity ? { group, entity } : null;
}

export const titleOfList = (rest) => `All ${GROUPS[listOf(rest).group]}s`;

export function showList(place, rest, query, signal) {
  const { group, entity } = listOf(rest), noun = GROUPS[group];
  const choices = controls(`/list/${rest}`, true);
  const box = h("input", { id: "within", type: "search", autocomplete: "off" });
  const csv = h("a.button", { download: "" }, "Download CSV"), part = h("div");
  let scope, rows = [], all = true, shift = 0, page = 0, turn = new AbortController();
  place.append(h("p.back", {}, h("a", { href: "#/spend" }, "← Spend")),
    h("h1", {}, titleOfList(rest), entity.entity_type && [" of ", h("span.chip", {}, typeName(entity.entity_type)), " ", named(entity)]),
    choices.element, h("search.search", {}, h("label", { for: "within" }, `Find in the names of ${noun}s`), h("div.combo", {}, box)), part, h("p.beside", {}, csv));

  async function load(mine) {
    const ask = (more) => report("/v1/usage", { ...entity, ...bounds(scope), by: "total", group_by: group, order_by: "spend", ...more }, mine);
    let answer;
    try {
      all = true;
      answer = await ask({});
    } catch (error) {
      if (!error.type?.endsWith("#too-many-rows")) throw error;
      all = false;
      answer = await ask({ limit: MOST });
    }
    rows = answer.rows;
    shift = answer.day_shift_minutes;
    return content();
  }

  function content(whole = false) {
    const wanted = box.value.toLowerCase();
    const found = wanted ? rows.filter((r) => r[group].toLowerCase().includes(wanted)) : rows;
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    page = Math.min(page, pages - 1);
    const shown = whole ? found : found.slice(page * PAGE, (page + 1) * PAGE);
    const align = alignedMoney(shown.map((r) => r.spend));
    const sum = (of) => found.reduce((total, r) => total + of(r), 0n);
    return [
      h("p.printed", {}, `${sayDates(scope)}, ${scope.tz}. ${HOW_ROUNDED}`),
      shift > 0 && shiftNote(scope.tz, shift),
      !all && h("p.hint", {}, `These are the ${count(MOST)} largest; there are too many ${noun}s to show them all here. The CSV has all.`),
      h("p.sums", { role: "status" }, found.length < rows.length && `${count(found.length)} of `, counted(rows.length, noun),
        // A request counts in full on each of its tags: together they would be more than was spent.
        group !== "tag" && [": ", money(decimal(sum((r) => units(r.spend)))), ` in ${counted(sum((r) => BigInt(r.api_requests)), "request")}`]),
      table(titleOfList(rest), [
        { name: noun[0].toUpperCase() + noun.slice(1), wide: true, cell: (r) => (r[group] === "" ? "(none)" : linkOf(group, r[group]) ?? id(r[group])) },
        { name: "Spend", number: true, cell: (r) => align(r.spend) },
        { name: "Requests", number: true, cell: (r) => count(r.api_requests) }, { name: "Failed", number: true, cell: (r) => count(r.failed_requests) },
        { name: "Prompt tokens", number: true, cell: (r) => count(r.prompt_tokens) }, { name: "Completion tokens", number: true, cell: (r) => count(r.completion_tokens) },
      ], shown, { titled: true, empty: rows.length ? "No name has this in it." : "Nothing was booked in this time." }),
      pages > 1 && !whole && h("nav.pages", { "aria-label": "Pages" },
        h("button", { type: "button", disabled: page === 0, onclick: turnBy(-1) }, "Previous"),
        h("span", {}, `${count(page * PAGE + 1)} to ${count(page * PAGE + shown.length)} of ${count(found.length)}`),
        h("button", { type: "button", disabled: page === pages - 1, onclick: turnBy(1) }, "Next")),
    ];
  }

  const turnBy = (step) => () => { page += step; draw(); part.querySelector("table")?.scrollIntoView({ block: "nearest" }); };
  const draw = (whole) => rows.length && renew(part, content(whole));
  box.addEventListener("input", () => { page = 0; draw(); });
  addEventListener("beforeprint", () => draw(true), { signal }); // on paper there is no next page
  addEventListener("afterprint", () => draw(), { signal });

  function show(next) {
    scope = scopeOf(next);
    showExact(scope.amounts === "exact");
    choices.show(scope);
    turn.abort();
    turn = new AbortController();
    page = 0;
    if (scope.problem) return renew(part, h("p.empty", {}, "Correct the dates to see what was spent."));
    csv.href = csvAddress(scope, entity, { by: "total", group_by: group, order_by: "spend" });
    const mine = AbortSignal.any([signal, turn.signal]);
    fill(part, `all ${noun}s`, () => load(mine), mine);
  }
  show(query);
  return show;
}
