// Parts of a report on what was spent: its totals, its chart, its biggest.
import { h, id, facts } from "./dom.js";
import { alignedMoney, count, money, units, entityLink } from "./format.js";
import { at, report, withQuery } from "./api.js";
import { stack } from "./chart.js";
import { bounds, slotsOf, GROUPS, MEASURES } from "./scope.js";

const TYPE_OF = { team_id: "team", user_id: "user", api_key: "api_key", end_user_id: "end_user", organization_id: "organization", agent_id: "agent", tag: "tag" };

export async function totals(scope, whose, signal) {
  const { rows, day_shift_minutes: shift } = await report("/v1/usage", { ...whose, ...bounds(scope), by: "total" }, signal);
  const r = rows[0] ?? { spend: "0", api_requests: 0, failed_requests: 0, prompt_tokens: 0, completion_tokens: 0, cache_read_input_tokens: 0 };
  return [facts(["Spend", money(r.spend)], ["Requests", count(r.api_requests)], ["Failed", count(r.failed_requests)],
    ["Prompt tokens", count(r.prompt_tokens)], ["Completion tokens", count(r.completion_tokens)], ["Cache reads, tokens", count(r.cache_read_input_tokens)]), shift > 0 && shiftNote(scope.tz, shift)];
}

// shiftNote says that days aren't exact in a zone.
export const shiftNote = (tz, minutes) => h("p.hint.shift", {}, `Days and months of ${tz} begin and end up to ${minutes} minutes late here, with a whole hour of UTC: `,
  "an hour counts on the day in which it starts.");

// usageChart shows the report in figure, a chart. What would be too many rows to stack is shown as one.
export async function usageChart(figure, scope, whose, signal) {
  const ask = (group) => report("/v1/usage", { ...whose, ...bounds(scope), by: scope.by, group_by: group }, signal);
  let { group } = scope, note = "", answer;
  try {
    answer = await ask(group);
  } catch (error) {
    if (!group || !error.type?.endsWith("#too-many-rows")) throw error;
    note = `There are too many ${GROUPS[group]}s in this time to stack them; the CSV has all.`;
    group = "";
    answer = await ask(group);
  }
  if (!answer.rows.length) return h("p.empty", {}, "Nothing was booked in this time.");
  const isMoney = scope.measure === "spend", hourly = scope.by === "hour";
  const slots = slotsOf(scope, answer);
  const rows = answer.rows.map((r) => ({
    slot: hourly ? Date.parse(r.hour) : r.date ?? r.month, group: group ? r[group] : MEASURES[scope.measure],
    value: isMoney ? units(r.spend) : BigInt(r[scope.measure]),
  }));
  const title = `${MEASURES[scope.measure]} by ${scope.by}${group ? ` and ${GROUPS[group]}` : ""}, ${scope.tz}`;
  return figure.show({ title, note, isMoney, labels: slots.map((s) => s.label), series: stack(slots.map((s) => s.at), rows, figure.names(title)) });
}

// linkOf leads to the entity that a name of a group is; undefined if it is none.
export const linkOf = (group, name) => (TYPE_OF[group] ? entityLink({ entity_type: TYPE_OF[group], entity_id: name }) : undefined);

// topList is the biggest of a group.
export async function topList(group, scope, whose, signal) {
  const { rows } = await report("/v1/usage", { ...whose, ...bounds(scope), by: "total", group_by: group, order_by: "spend", limit: 10 }, signal);
  const named = rows.filter((r) => r[group] !== "");
  if (!named.length) return h("p.empty", {}, "None in this time.");
  const largest = named.reduce((most, r) => (units(r.spend) > most ? units(r.spend) : most), 1n);
  const align = alignedMoney(named.map((r) => r.spend));
  return h("ol.top-list", {}, named.map((r) => {
    const share = h("meter", { min: 0, max: 100, "aria-hidden": "true", value: Number((units(r.spend) * 100n) / largest) });
    return h("li", { "data-key": r[group] }, h("span.name", {}, linkOf(group, r[group]) ?? id(r[group])),
      h("span.number", {}, align(r.spend)), share);
  }));
}

// csvAddress is where the report is as CSV, for spreadsheets: with the mark by which they know UTF-8.
export const csvAddress = (scope, whose, change = {}) => at(withQuery("/v1/usage", {
  ...whose, ...bounds(scope), by: scope.by, group_by: scope.group, ...change, format: "csv", bom: "true",
}));
