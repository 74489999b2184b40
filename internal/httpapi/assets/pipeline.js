// How the pipeline stands, live.
import { documentURL, h, icon, id, state, table, renew, visible } from "./dom.js";
import { bytes, clock, count, counted, days, dollars, seconds, since, whenInZone } from "./format.js";
import { howToBook, isEmpty } from "./begin.js";
import { watch } from "./live.js";

const WORDS = { ok: "All is well", warn: "Look at this", bad: "Act now" };

export function showPipeline(place, _, __, signal) {
  const sentence = h("p.sentence");
  const banner = h("section.banner", { "aria-label": "State" });
  const rest = h("div", {}, h("p.loading", { role: "status" }, "Waiting for the first news …"));
  place.append(h("h1", {}, "Pipeline"), banner, rest);
  let spoken = "";
  watch((pipeline, connected) => {
    if (!pipeline) return;
    const now = connected ? pipeline.state : "bad";
    // A screen reader hears of a change of state, not of every tenth of a second.
    sentence.setAttribute("aria-live", spoken === `${connected} ${now}` ? "off" : "polite");
    spoken = `${connected} ${now}`;
    sentence.textContent = connected ? visible(pipeline.sentence) : "This instance doesn't answer.";
    banner.className = `banner ${now}`;
    banner.replaceChildren(icon(now), h("div", {},
      h("p.word", {}, connected ? WORDS[now] ?? now : "Connection lost"), sentence,
      h("p.as-of", {}, connected ? "as of " : "It may be restarting, or the network is away. What is below was so at ", whenInZone(pipeline.as_of))));
    renew(rest, [problems(pipeline), isEmpty(pipeline) && howToBook(), path(pipeline), instances(pipeline), flushes(pipeline)].map((part) => h("section", {}, part)));
  }, signal);
}

function problems(p) {
  if (!p.problems?.length) return [];
  return [h("h2", {}, "What to do"), h("ul.problems", {}, p.problems.map((x) =>
    h(`li.${x.severity}`, {}, state(x.severity, x.what), h("p", {}, x.do),
      x.runbook && h("a", { href: documentURL("runbook", x.runbook), rel: "noreferrer", "aria-label": `Runbook: ${x.what}` }, "Runbook"))))];
}

// path is the picture: four stations in the order that an update passes them.
function path(p) {
  const alive = p.instances.filter((i) => i.alive);
  const held = alive.reduce((sum, i) => sum + i.held_updates, 0);
  const direct = alive.filter((i) => i.fallback).length;
  const locks = p.locks ?? [];
  const holders = [...new Set(locks.map((l) => l.holder).filter(Boolean))];
  const queue = p.queue;
  const away = (queue.shards ?? []).filter((q) => q.error).map((q) => q.shard);
  const used = queue.max_bytes ? Math.min(100, (100 * queue.bytes) / queue.max_bytes) : null;
  return [h("h2", {}, "The path of an update"), h("ol.path", {},
    station("Instances", alive.length < p.instances.length ? "warn" : "ok", `${alive.length} alive`,
      [`${counted(held, "update")} held`], !p.instances_complete && "only this one is known here"),
    station("Queue", !queue.used ? "ok" : !queue.up ? "bad" : queue.error ? "warn" : "ok", !queue.used ? "not used" : queue.up ? counted(queue.batches, "batch", "batches") : "away",
      queue.used && [bytes(queue.bytes) + (used === null ? "" : ` of ${bytes(queue.max_bytes)}`), queue.batches > 0 && `oldest ${seconds(queue.oldest_age_seconds)}`],
      away.length ? `away for ${away.length === 1 ? "shard" : "shards"} ${away.join(", ")}: ${queue.error}` : queue.error || (direct > 0 && `${direct} write directly`)),
    station("Lock holder", "ok", holders.length ? holders.map((name, i) => [i > 0 && ", ", id(name)]) : "nobody",
      locks.slice(0, 4).map((l) => (locks.length > 1 ? `shard ${l.shard}: ` : "") + (!l.holder ? "free" : l.held_seconds === null ? "held" : `for ${seconds(l.held_seconds)}`)),
      locks.length > 4 && `and ${locks.length - 4} more shards`),
    station("Postgres", p.postgres.up ? "ok" : "bad", p.postgres.up ? counted(p.postgres.updates, "update") : "away",
      [p.postgres.up && [dollars(p.postgres.amount ?? "0"), " booked"], p.postgres.up && `${p.postgres.connections} of ${p.postgres.max_connections} connections`,
        p.postgres.up && p.ids && `about ${counted(p.ids.estimate, "id")}, each once for ${days(p.ids.window_seconds)}`, p.postgres.version && `Postgres ${p.postgres.version}`], p.postgres.error))];
}

function station(name, sign, number, lines, note) {
  return h(`li.${sign}`, {}, h("h3", {}, icon(sign), " ", name), h("p.big", {}, number),
    (lines || []).filter(Boolean).map((line) => h("p", {}, line)), note && h("p.note", {}, note));
}

function instances(p) {
  return table("Instances", [
    { name: "Instance", cell: (i) => [h("strong", {}, id(i.instance)), i.self && h("span.chip", {}, "this one")] },
    { name: "State", cell: (i) => state(i.alive ? (i.fallback ? "warn" : "ok") : "bad", i.alive ? (i.fallback ? "writes directly" : "alive") : "gone") },
    { name: "Holds shards", cell: (i) => (i.holds_shards?.length ? i.holds_shards.join(", ") : "–") },
    { name: "Held updates", number: true, cell: (i) => count(i.held_updates) },
    { name: "Held amount", money: (i) => i.held_amount },
    { name: "Keys", number: true, cell: (i) => count(i.keys) },
    { name: "Unconfirmed", number: true, cell: (i) => count(i.unconfirmed_batches) },
    { name: "Behind", number: true, cell: (i) => seconds(i.behind_seconds) },
    { name: "Running for", number: true, cell: (i) => since(i.started_at, p.as_of) },
    { name: "Seen", number: true, cell: (i) => (i.alive ? "now" : `${since(i.seen_at, p.as_of)} ago`) },
    { name: "Version", cell: (i) => i.version },
  ], p.instances);
}

function flushes(p) {
  return table("Last flushes", [
    { name: "When", cell: (f) => clock(f.at) },
    { name: "By", cell: (f) => id(f.instance) },
    { name: "Shard", number: true, cell: (f) => f.shard },
    { name: "Batches", number: true, cell: (f) => count(f.batches) },
    { name: "Rows", number: true, cell: (f) => count(f.rows) },
    { name: "Updates", number: true, cell: (f) => count(f.updates) },
    { name: "Amount", money: (f) => f.amount },
    { name: "Took", number: true, cell: (f) => seconds(f.duration_seconds) },
    { name: "Behind", number: true, cell: (f) => seconds(f.behind_seconds) },
  ], p.flushes ?? [], { empty: "No instance has flushed anything yet." });
}
