// What of the books is looked at: which days, in which time zone, by what. It is kept in the address, so that links show
// the same.
import { count, ZONE } from "./format.js";

export const RANGES = { "1d": "24 hours", "7d": "7 days", "30d": "30 days", month: "This month", "last-month": "Last month", "90d": "90 days", "365d": "1 year", custom: "Custom dates" };
export const MEASURES = { spend: "Spend", api_requests: "Requests", prompt_tokens: "Prompt tokens", completion_tokens: "Completion tokens" };
export const AMOUNTS = { rounded: "to the cent", exact: "all digits" };
export const GROUPS = {
  "": "nothing", model: "model", custom_llm_provider: "provider", team_id: "team", user_id: "user", api_key: "API key",
  end_user_id: "end user", organization_id: "organisation", agent_id: "agent", tag: "tag", endpoint: "endpoint",
};

// The bounds of the API.
const MOST_DAYS = 1100;
const MOST_DAYS_BY_HOUR = 62;

const DAY = 86400e3, HOUR = 3600e3;

const pick = (value, among, otherwise) => (value !== null && Object.hasOwn(among, value) ? value : otherwise);

export const midnight = (date) => Date.parse(`${date}T00:00:00Z`);
const dateOf = (t) => new Date(t).toISOString().slice(0, 10);
const dateIn = (tz, t) => new Intl.DateTimeFormat("en-CA", { timeZone: tz, dateStyle: "short" }).format(t);
const isDate = (text) => /^\d{4}-\d\d-\d\d$/.test(text) && !Number.isNaN(midnight(text)) && dateOf(midnight(text)) === text;
export const sayDate = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", day: "numeric", month: "short", year: "numeric" });

const sayMonth = new Intl.DateTimeFormat("en-GB", { timeZone: "UTC", month: "short", year: "numeric" });

// isZone says whether this browser knows a time zone.
export function isZone(name) {
  if (!/^[A-Za-z]/.test(name)) return false; // browsers know offsets, too
  try {
    return Boolean(new Intl.DateTimeFormat("en", { timeZone: name }));
  } catch {
    return false;
  }
}

const daysOf = ({ from, to }) => Math.round((midnight(to) - midnight(from)) / DAY) + 1;

// problemOf says what is wrong with two dates; "" if nothing is.
export function problemOf({ from, to }) {
  if (!isDate(from) || !isDate(to)) return "Give both dates, the first and the last day.";
  if (from > to) return `The first day, ${sayDate.format(midnight(from))}, is after the last, ${sayDate.format(midnight(to))}.`;
  if (daysOf({ from, to }) > MOST_DAYS) return `These are ${count(daysOf({ from, to }))} days; at most ${count(MOST_DAYS)} can be shown.`;
  return "";
}

// scopeOf reads the query of an address. What isn't allowed there becomes the default, but for dates, whose problem is told.
export function scopeOf(query) {
  const scope = {
    range: pick(query.get("range"), RANGES, "7d"), tz: isZone(query.get("tz") ?? "") ? query.get("tz") : ZONE,
    group: query.get("group") === "none" ? "" : pick(query.get("group"), GROUPS, "model"), measure: pick(query.get("measure"), MEASURES, "spend"),
    amounts: pick(query.get("amounts"), AMOUNTS, "rounded"), problem: "",
  };
  if (scope.range === "custom") {
    Object.assign(scope, { from: query.get("from") ?? "", to: query.get("to") ?? "" });
    scope.problem = problemOf(scope);
  }
  const days = scope.problem || scope.range === "1d" ? 1 : daysOf(bounds(scope));
  scope.steps = scope.range === "1d" ? { hour: "hour" } : { day: "day", ...(days <= MOST_DAYS_BY_HOUR && { hour: "hour" }), month: "month" };
  scope.by = pick(query.get("by"), scope.steps, days <= 2 ? "hour" : "day");
  return scope;
}

// queryOf is what scopeOf reads.
export const queryOf = ({ range, from, to, by, group, measure, tz, amounts }) => ({
  range, ...(range === "custom" && { from, to }), by, group: group || "none", measure, tz, ...(amounts === "exact" && { amounts }),
});

// bounds are from and to of the API: whole hours back from now for 24 hours, else whole days of the zone, of which both count.
export function bounds({ range, from, to, tz }) {
  if (range === "custom") return { from, to, tz };
  if (range === "1d") {
    const end = (Math.floor(Date.now() / HOUR) + 1) * HOUR;
    const text = (t) => new Date(t).toISOString().replace(".000", "");
    return { from: text(end - DAY), to: text(end), tz };
  }
  const today = dateIn(tz, Date.now()), first = firstOfMonth(today);
  if (range === "month") return { from: first, to: today, tz };
  if (range === "last-month") {
    const last = dateOf(midnight(first) - DAY);
    return { from: firstOfMonth(last), to: last, tz };
  }
  return { from: dateOf(midnight(today) - (parseInt(range, 10) - 1) * DAY), to: today, tz };
}

const firstOfMonth = (date) => `${date.slice(0, 8)}01`;

// sayDates says which days a scope has.
export function sayDates(scope) {
  const { from, to } = datesOf(scope);
  return from === to ? sayDate.format(midnight(from)) : `${sayDate.format(midnight(from))} to ${sayDate.format(midnight(to))}`;
}

// datesOf are the first and the last day that a scope touches.
export function datesOf(scope) {
  const { from, to } = bounds(scope);
  return scope.range === "1d" ? { from: dateIn(scope.tz, Date.parse(from)), to: dateIn(scope.tz, Date.parse(to) - HOUR) } : { from, to };
}

// isCurrent says whether what is spent now counts in the scope.
export function isCurrent(scope) {
  const { from, to } = datesOf(scope), today = dateIn(scope.tz, Date.now());
  return from <= today && today <= to;
}

// hourLabels say which hour it is. Where the clock is put back there are two of a name, which their offsets tell apart.
function hourLabels(tz, hours) {
  const parts = { timeZone: tz, day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" };
  const say = new Intl.DateTimeFormat("en-GB", parts), sayOffset = new Intl.DateTimeFormat("en-GB", { ...parts, timeZoneName: "shortOffset" });
  const labels = hours.map((t) => say.format(t));
  const often = new Map();
  for (const label of labels) often.set(label, (often.get(label) ?? 0) + 1);
  return labels.map((label, i) => (often.get(label) > 1 ? sayOffset.format(hours[i]) : label));
}

// slotsOf are the bars of a chart, {at, label}: at is what the API calls the hour, the day or the month.
export function slotsOf(scope, { from, to }) {
  const slots = [];
  if (scope.by === "hour") {
    const hours = [];
    for (let t = Date.parse(from); t < Date.parse(to); t += HOUR) hours.push(t);
    hourLabels(scope.tz, hours).forEach((label, i) => slots.push({ at: hours[i], label }));
  } else if (scope.by === "month") {
    const dates = datesOf(scope);
    const t = new Date(midnight(firstOfMonth(dates.from)));
    for (; dateOf(t) <= dates.to; t.setUTCMonth(t.getUTCMonth() + 1)) slots.push({ at: dateOf(t).slice(0, 7), label: sayMonth.format(t) });
  } else {
    const dates = datesOf(scope);
    for (let t = midnight(dates.from); t <= midnight(dates.to); t += DAY) slots.push({ at: dateOf(t), label: sayDate.format(t) });
  }
  return slots;
}
