// What of the books is looked at: range, time zone, stretches, groups. It is kept in the address, so that links show the same.
import { h, fill, facts } from "./dom.js";
import { count, decimal, dollars, units, TYPES, entityLink } from "./format.js";
import { report, withQuery } from "./api.js";
import { chart, stack } from "./chart.js";

const HERE = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
const RANGES = { "1d": "24 hours", "7d": "7 days", "30d": "30 days", "90d": "90 days", "365d": "1 year" };
const MEASURES = { spend: "Spend", api_requests: "Requests", prompt_tokens: "Prompt tokens", completion_tokens: "Completion tokens" };
export const GROUPS = {
  "": "nothing", model: "model", custom_llm_provider: "provider", team_id: "team", user_id: "user", api_key: "API key",
  end_user_id: "end user", organization_id: "organisation", agent_id: "agent", tag: "tag", endpoint: "endpoint",
};
const TYPE_OF = { team_id: "team", user_id: "user", api_key: "api_key", end_user_id: "end_user", organization_id: "organization", agent_id: "agent", tag: "tag" };

const pick = (value, among, otherwise) => (value !== null && Object.hasOwn(among, value) ? value : otherwise);

export function scopeOf(query) {
  const range = pick(query.get("range"), RANGES, "7d");
  return {
    range, tz: query.get("tz") === "UTC" ? "UTC" : HERE,
    by: range === "1d" ? "hour" : query.get("by") === "hour" && ["7d", "30d"].includes(range) ? "hour" : "day",
    group: pick(query.get("group"), GROUPS, "model"), measure: pick(query.get("measure"), MEASURES, "spend"),
  };
}

// bounds are from and to of the API: whole hours back from now for a day, else whole days of the zone, today the last.
export function bounds(scope) {
  const days = parseInt(scope.range, 10);
  if (scope.range === "1d") {
    const end = (Math.floor(Date.now() / 3600e3) + 1) * 3600e3;
    const text = (t) => new Date(t).toISOString().replace(".000", "");
    return { from: text(end - 24 * 3600e3), to: text(end), tz: scope.tz };
  }
  const today = new Intl.DateTimeFormat("en-CA", { timeZone: scope.tz, dateStyle: "short" }).format(new Date());
  const first = new Date(Date.parse(`${today}T00:00:00Z`) - (days - 1) * 86400e3).toISOString().slice(0, 10);
  return { from: first, to: today, tz: scope.tz };
}

// controls are the choices; each goes to the address of the same view with another query.
export function controls(path, scope) {
  const go = (change) => { location.hash = withQuery(`#${path}`, { ...scope, tz: scope.tz === "UTC" ? "UTC" : "local", ...change }); };
  const choice = (label, name, values, now = scope[name]) => h("label", {}, h("span", {}, label),
    h("select", { name, onchange: (event) => go({ [name]: event.target.value }) },
      Object.entries(values).map(([value, text]) => h("option", { value, selected: value === now }, text))));
  const zones = HERE === "UTC" ? { UTC: "UTC" } : { local: HERE, UTC: "UTC" };
  const steps = scope.range === "1d" ? { hour: "hour" } : ["7d", "30d"].includes(scope.range) ? { day: "day", hour: "hour" } : { day: "day" };
  return h("form.controls", { "aria-label": "What is shown", onsubmit: (event) => event.preventDefault() },
    choice("Range", "range", RANGES), choice("By", "by", steps), choice("Stacked by", "group", GROUPS),
    choice("Measure", "measure", MEASURES), choice("Time zone", "tz", zones, scope.tz === "UTC" ? "UTC" : "local"));
}

export async function totals(scope, whose, signal) {
  const { rows } = await report("/v1/usage", { ...whose, ...bounds(scope), by: "total" }, signal);
  const r = rows[0] ?? { spend: "0", api_requests: 0, failed_requests: 0, prompt_tokens: 0, completion_tokens: 0, cache_read_input_tokens: 0 };
  return facts(["Spend", dollars(r.spend)], ["Requests", count(r.api_requests)], ["Failed", count(r.failed_requests)],
    ["Prompt tokens", count(r.prompt_tokens)], ["Completion tokens", count(r.completion_tokens)], ["Cache reads, tokens", count(r.cache_read_input_tokens)]);
}

export async function usageChart(scope, whose, signal) {
  const answer = await report("/v1/usage", { ...whose, ...bounds(scope), by: scope.by, group_by: scope.group }, signal);
  const hourly = scope.by === "hour";
  const slots = [], labels = [];
  if (hourly) {
    const say = new Intl.DateTimeFormat("en-GB", { timeZone: scope.tz, day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });
    for (let t = Date.parse(answer.from); t < Date.parse(answer.to); t += 3600e3) { slots.push(t); labels.push(say.format(t)); }
  } else {
    const say = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", day: "numeric", month: "short", year: "numeric" });
    const { from, to } = bounds(scope);
    for (let t = Date.parse(`${from}T00:00:00Z`); t <= Date.parse(`${to}T00:00:00Z`); t += 86400e3) {
      slots.push(new Date(t).toISOString().slice(0, 10));
      labels.push(say.format(t));
    }
  }
  if (!answer.rows.length) return h("p.empty", {}, "Nothing was booked in this time.");
  const isMoney = scope.measure === "spend";
  const rows = answer.rows.map((r) => ({
    slot: hourly ? Date.parse(r.hour) : r.date, group: scope.group ? r[scope.group] : MEASURES[scope.measure],
    value: isMoney ? units(r.spend) : BigInt(r[scope.measure]),
  }));
  const title = `${MEASURES[scope.measure]} by ${scope.by}${scope.group ? ` and ${GROUPS[scope.group]}` : ""}, ${scope.tz}`;
  return chart(title, labels, stack(slots, rows), isMoney, signal);
}

// topLists are cards of the biggest, one a group.
export function topLists(groups, scope, whose, signal) {
  return h("div.tops", {}, groups.map((group) => {
    const place = h("div");
    const name = GROUPS[group];
    fill(place, `the top ${name}s`, () => topList(group, scope, whose, signal), signal);
    return h("section.card", {}, h("h3", {}, `Top ${name}s`), place);
  }));
}

async function topList(group, scope, whose, signal) {
  const { rows } = await report("/v1/usage", { ...whose, ...bounds(scope), by: "total", group_by: group, order_by: "spend", limit: 10 }, signal);
  const named = rows.filter((r) => r[group] !== "");
  if (!named.length) return h("p.empty", {}, "None in this time.");
  const largest = named.reduce((most, r) => (units(r.spend) > most ? units(r.spend) : most), 1n);
  return h("ol.top-list", {}, named.map((r) => {
    const share = h("meter", { min: 0, max: 100, "aria-hidden": "true" });
    share.value = Number((units(r.spend) * 100n) / largest);
    const type = TYPE_OF[group];
    return h("li", {}, h("span.name", {}, type ? entityLink({ entity_type: type, entity_id: r[group] }) : r[group]),
      h("span.number", {}, dollars(r.spend)), share);
  }));
}

export const csvLink = (scope, whose) => h("a.button", {
  href: withQuery("/v1/usage", { ...whose, ...bounds(scope), by: scope.by, group_by: scope.group, format: "csv" }), download: "spendflush-usage.csv",
}, "Download CSV");
export { TYPES };
