// Numbers and times as texts. Amounts are exact decimals: they are added as whole numbers of 10^-12 and never pass
// through a float, but to draw a chart.
import { h, id } from "./dom.js";

const SCALE = 12;

export function units(text) {
  const [, sign, whole, fraction = ""] = /^(-?)(\d+)(?:\.(\d+))?$/.exec(text) ?? [];
  if (whole === undefined || fraction.length > SCALE) throw new Error(`${text} is not an amount`);
  const n = BigInt(whole + fraction.padEnd(SCALE, "0"));
  return sign ? -n : n;
}

export function decimal(n) {
  const digits = (n < 0n ? -n : n).toString().padStart(SCALE + 1, "0");
  const fraction = digits.slice(-SCALE).replace(/0+$/, "");
  return `${n < 0n ? "-" : ""}${digits.slice(0, -SCALE)}${fraction && "." + fraction}`;
}

const grouped = (digits) => digits.replace(/\B(?=(\d{3})+$)/g, ",");

export function dollarText(text) {
  const [whole, fraction = ""] = String(text).replace("-", "").split(".");
  return `${String(text).startsWith("-") ? "−" : ""}$${grouped(whole)}.${fraction.padEnd(2, "0")}`;
}

// dollars shows every digit; those past the cents are smaller. Blanks as wide as digits fill them up to a width.
export function dollars(text, width = 0) {
  const all = dollarText(text);
  const cents = all.indexOf(".") + 3;
  const rest = all.slice(cents).padEnd(width, "\u2007");
  return h("span.amount", {}, all.slice(0, cents), rest && h("small", {}, rest));
}

const CENT = 10n ** 10n;

// rounded is an amount to the cent, halves away from zero; what is less than a cent keeps two digits.
export function rounded(text) {
  const n = units(text), size = n < 0n ? -n : n;
  const step = size >= CENT ? CENT : 10n ** BigInt(Math.max(0, String(size).length - 2));
  const near = ((size + step / 2n) / step) * step;
  return decimal(n < 0n ? -near : near);
}

// Reports show rounded amounts, whose title is the exact one, or exact ones: as their reader chose last.
let exact = false;
export const showExact = (wanted) => { exact = wanted; };
const shown = (text) => (exact ? text : rounded(text));
export const moneyText = (text) => dollarText(shown(text));

export function money(text, width = 0) {
  const near = shown(text), element = dollars(near, width);
  if (units(near) !== units(text)) element.title = dollarText(text);
  return element;
}

export const HOW_ROUNDED = "Amounts are rounded to the cent, halves away from zero, and below a cent to two digits.";

const widthOf = (texts) => Math.max(0, ...texts.map((t) => (String(t ?? "").split(".")[1]?.length ?? 0) - 2));

// alignedMoney is aligned for reports.
export function alignedMoney(texts) {
  const width = widthOf(texts.map(shown));
  return (text) => money(text, width);
}

// aligned shows amounts of one column so that their points are below each other.
export function aligned(texts) {
  const width = widthOf(texts);
  return (text) => dollars(text, width);
}

export const count = (n) => (n === null || n === undefined ? "–" : grouped(String(n)));
export const counted = (n, noun, nouns = `${noun}s`) => `${count(n)} ${Number(n) === 1 ? noun : nouns}`;

export function bytes(n) {
  for (const unit of ["B", "KiB", "MiB"]) {
    if (n < 1024) return `${unit === "B" ? n : n.toFixed(1)}\u00a0${unit}`;
    n /= 1024;
  }
  return `${n.toFixed(1)}\u00a0GiB`;
}

export function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s === 0) return "0 s";
  if (s < 0.0995) return `${(s * 1000).toFixed(s < 0.00995 ? 1 : 0)} ms`;
  if (s < 60) return `${s.toFixed(1)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

// days is a duration of hours or days, as of a setting.
export const days = (s) => (s < 3 * 86400 ? counted(Math.round(s / 360) / 10, "hour") : counted(Math.round(s / 8640) / 10, "day"));

// since is how long ago a moment was, in whole seconds.
export function since(text, now) {
  const s = Math.max(0, Math.round((Date.parse(now) - Date.parse(text)) / 1000));
  return s < 60 ? `${s} s` : seconds(s);
}

const DATE = { day: "numeric", month: "short", year: "numeric" };
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit" };

const time = (text, options) => (text ? h("time", { datetime: text, title: text }, new Intl.DateTimeFormat("en-GB", options).format(new Date(text))) : "–");

// Moments in the reader's time zone, which the foot of the page names. The moment as the API tells it is the tooltip.
export const when = (text) => time(text, { ...DATE, ...CLOCK });
export const whenInZone = (text) => time(text, { ...DATE, ...CLOCK, timeZoneName: "short" });
export const clock = (text) => time(text, CLOCK);

export const ZONE = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";

// The names of entity types, as people say them.
export const TYPES = {
  team: "Team", user: "User", api_key: "API key", end_user: "End user", organization: "Organisation", tag: "Tag",
  agent: "Agent", team_member: "Team member",
};

export const typeName = (type) => (Object.hasOwn(TYPES, type) ? TYPES[type] : type);

// named shows which entity it is, without its type.
export const named = (e) => (e.team_id ? [id(e.entity_id), " of ", id(e.team_id)] : [id(e.entity_id)]);

export function entityPath(e) {
  const ids = e.entity_type === "team_member" ? [e.team_id, e.entity_id] : [e.entity_id];
  return [e.entity_type, ...ids].map(encodeURIComponent).join("/");
}

export const entityLink = (e) => h("a", { href: `#/entity/${entityPath(e)}` }, named(e));
