// A report on what was spent, of all or of one: choices, totals, a chart, top lists. It stays current by itself.
import { h, failure, fill, state, renew } from "./dom.js";
import { chart } from "./chart.js";
import { controls } from "./controls.js";
import { howToBook, isEmpty } from "./begin.js";
import { entityPath, showExact, whenInZone, HOW_ROUNDED } from "./format.js";
import { watch } from "./live.js";
import { withQuery } from "./api.js";
import { isCurrent, queryOf, sayDates, scopeOf, GROUPS, MEASURES } from "./scope.js";
import { csvAddress, topList, totals, usageChart } from "./usage.js";

const PAUSE = 2000; // at least, between two reports
const SHARE = 4; // and so many times as long as the last one took, so that an open page is a small load

// isAway says whether what failed may go well the next time.
const isAway = (error) => error !== null && (error.status === 0 || error.status >= 500);

// board puts a report into place. path is that of the view, whose narrows the report down, lists are the groups of its top
// lists and more those of a button; before are other parts, {place, what, load(signal)}, that are to stay current, too. It
// returns what shows another query.
export function board(place, { path, whose, lists, more = [], before = [] }, query, signal) {
  let scope;
  const choices = controls(path), figure = chart(signal);
  const asOf = h("p.hint"), instead = h("div");
  const csv = h("a.button", { download: "" }, "Download CSV"), totalsCSV = h("a.button", { download: "" }, "Totals as CSV");
  const first = h("div"), printed = h("p.printed");
  const tops = h("div.tops");
  const parts = [...before,
    { place: h("div"), what: "the totals", load: (mine) => totals(scope, whose, mine) },
    { place: h("div"), what: "the chart", load: (mine) => usageChart(figure, scope, whose, mine) }];
  const addList = (group) => {
    const part = { place: h("div"), what: `the top ${GROUPS[group]}s`, load: (mine) => topList(group, scope, whose, mine) };
    const all = h("a.all", { "data-group": group, "aria-label": `All ${GROUPS[group]}s` }, "All");
    tops.append(h("section.card", {}, h("h3", {}, `Top ${GROUPS[group]}s`, " ", all), part.place));
    if (scope) lead(all);
    parts.push(part);
    return part;
  };
  // lead has a link to all of a group go to those of the time that is shown.
  const lead = (all) => { all.href = withQuery(`#/list/${[all.dataset.group, ...(whose.entity_type ? [entityPath(whose)] : [])].join("/")}`, queryOf(scope)); };
  lists.forEach(addList);
  const moreLists = more.length > 0 && h("button", { type: "button", onclick: () => {
    moreLists.remove();
    tops.tabIndex = -1;
    tops.focus({ preventScroll: true });
    more.map(addList).forEach((part) => fillPart(part, false));
  } }, "More lists");
  const content = h("div", {}, parts[before.length].place, parts[before.length + 1].place, h("p.beside", {}, csv, totalsCSV, asOf), h("p.hint.rounding", {}, HOW_ROUNDED, h("span.screen", {}, " Point at one to see all its digits, or choose them above.")),
    h("h2", {}, "Who and what"), tops, moreLists);
  place.append(first, choices.element, printed, instead, content);

  let turn = new AbortController(), mine = turn.signal;
  let news, seen, at = null, due = 0, busy = false, failed = null;
  const fillPart = (part, quietly) => fill(part.place, part.what, () => part.load(mine), mine, quietly);

  async function load(quietly) {
    turn.abort();
    turn = new AbortController();
    const ours = mine = AbortSignal.any([signal, turn.signal]);
    seen = news;
    busy = true;
    csv.href = csvAddress(scope, whose);
    totalsCSV.href = csvAddress(scope, whose, { by: "total", order_by: "spend" });
    tops.querySelectorAll("a.all").forEach(lead);
    const start = performance.now(), moment = new Date().toISOString();
    const errors = await Promise.all(parts.map((part) => fillPart(part, quietly)));
    if (ours.aborted) return;
    busy = false;
    due = performance.now() + Math.max(PAUSE, SHARE * (performance.now() - start));
    failed = errors.find(Boolean) ?? null;
    if (!failed) at = moment;
    if (!errors.every(Boolean)) put(null);
    else if (!quietly) put(failure(failed, () => load(false))); // one is enough
    tell(true);
  }

  // put shows something instead of the report; the report if there is nothing.
  function put(what) {
    renew(instead, what);
    content.hidden = Boolean(what);
  }

  function tell(connected) {
    if (!at) return renew(asOf);
    if (failed || !connected) return renew(asOf, state("warn", "Not refreshed since"), " ", whenInZone(at), failed && `: ${failed.message}`);
    renew(asOf, "As of ", whenInZone(at), isCurrent(scope) ? ", refreshed when something is booked" : ". These days are over: not refreshed by itself.");
  }

  function show(next) {
    scope = scopeOf(next);
    showExact(scope.amounts === "exact");
    choices.show(scope);
    renew(printed, !scope.problem && `${sayDates(scope)}, ${scope.tz}, ${MEASURES[scope.measure].toLowerCase()} by ${scope.by}.`);
    content.classList.toggle("exact", scope.amounts === "exact");
    put(scope.problem && h("p.empty", {}, "Correct the dates to see what was spent."));
    at = null;
    if (!scope.problem) load(false);
    else turn.abort();
  }

  watch((pipeline, connected) => {
    renew(first, isEmpty(pipeline) && howToBook());
    if (pipeline && connected) news = `${pipeline.postgres.updates} ${pipeline.postgres.amount}`;
    if (!pipeline || !scope || scope.problem) return;
    if (!busy) tell(connected);
    if (connected && !busy && performance.now() >= due && (isAway(failed) || (news !== seen && isCurrent(scope)))) load(true);
  }, signal);
  show(query);
  return show;
}
