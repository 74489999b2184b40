// A report on what was spent, of all or of one: choices, totals, a chart, top lists. It stays current by itself.
import { h, failure, fill, state, renew } from "./dom.js";
import { chart } from "./chart.js";
import { controls } from "./controls.js";
import { whenInZone } from "./format.js";
import { watch } from "./live.js";
import { isCurrent, scopeOf, GROUPS } from "./scope.js";
import { csvAddress, topList, totals, usageChart } from "./usage.js";

const PAUSE = 2000; // at least, between two reports
const SHARE = 4; // and so many times as long as the last one took, so that an open page is a small load

// isAway says whether what failed may go well the next time.
const isAway = (error) => error !== null && (error.status === 0 || error.status >= 500);

// board puts a report into place. path is that of the view, whose narrows the report down, lists are the groups of its top
// lists and more those of a button; before are other parts, {place, what, load(signal)}, that are to stay current, too. It
// returns what shows another query.
export function board(place, { path, whose, lists, more = [], before = [] }, query, signal) {
  const choices = controls(path), figure = chart(signal);
  const asOf = h("p.hint"), instead = h("div");
  const csv = h("a.button", { download: "spendflush-usage.csv" }, "Download CSV");
  const tops = h("div.tops");
  const parts = [...before,
    { place: h("div"), what: "the totals", load: (mine) => totals(scope, whose, mine) },
    { place: h("div"), what: "the chart", load: (mine) => usageChart(figure, scope, whose, mine) }];
  const addList = (group) => {
    const part = { place: h("div"), what: `the top ${GROUPS[group]}s`, load: (mine) => topList(group, scope, whose, mine) };
    tops.append(h("section.card", {}, h("h3", {}, `Top ${GROUPS[group]}s`), part.place));
    parts.push(part);
    return part;
  };
  lists.forEach(addList);
  const moreLists = more.length > 0 && h("button", { type: "button", onclick: () => {
    moreLists.remove();
    tops.tabIndex = -1;
    tops.focus({ preventScroll: true });
    more.map(addList).forEach((part) => fillPart(part, false));
  } }, "More lists");
  const content = h("div", {}, parts[before.length].place, parts[before.length + 1].place, h("p.beside", {}, csv, asOf),
    h("h2", {}, "Who and what"), tops, moreLists);
  place.append(choices.element, instead, content);

  let scope, turn = new AbortController(), mine = turn.signal;
  let news, seen, at = null, due = 0, busy = false, failed = null;
  const fillPart = (part, quietly) => fill(part.place, part.what, () => part.load(mine), mine, quietly);

  async function load(quietly) {
    turn.abort();
    turn = new AbortController();
    const ours = mine = AbortSignal.any([signal, turn.signal]);
    seen = news;
    busy = true;
    csv.href = csvAddress(scope, whose);
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
    choices.show(scope);
    put(scope.problem && h("p.empty", {}, "Correct the dates to see what was spent."));
    at = null;
    if (!scope.problem) load(false);
    else turn.abort();
  }

  watch((pipeline, connected) => {
    if (pipeline && connected) news = `${pipeline.postgres.updates} ${pipeline.postgres.amount}`;
    if (!pipeline || !scope || scope.problem) return;
    if (!busy) tell(connected);
    if (connected && !busy && performance.now() >= due && (isAway(failed) || (news !== seen && isCurrent(scope)))) load(true);
  }, signal);
  show(query);
  return show;
}
