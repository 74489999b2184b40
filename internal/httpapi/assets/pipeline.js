// How the pipeline stands, live.
import { h, icon, state, table } from "./dom.js";
import { bytes, count, dollars, seconds, since, when } from "./format.js";
import { watch } from "./live.js";

const WORDS = { ok: "All is well", warn: "Look at this", bad: "Act now" };
const RUNBOOK = "https://github.com/spendflush/spendflush/blob/main/docs/runbook.md";

export function showPipeline(place, _, __, signal) {
  const sentence = h("p.sentence", { "aria-live": "polite" });
  const banner = h("section.banner", { "aria-label": "State" });
  const rest = h("div");
  const parts = ["problems", "path", "instances", "flushes"].map(() => h("section"));
  place.append(h("h1", {}, "Pipeline"), banner, rest);
  rest.append(h("p.loading", { role: "status" }, "Waiting for the first news …"));
  let spoken = "";
  watch((pipeline) => {
    if (!pipeline) return;
    // A screen reader hears of a change of state, not of every tenth of a second.
    if (spoken !== pipeline.state) sentence.setAttribute("aria-live", "polite");
    else sentence.setAttribute("aria-live", "off");
    spoken = pipeline.state;
    sentence.textContent = pipeline.sentence;
    banner.className = `banner ${pipeline.state}`;
    banner.replaceChildren(icon(pipeline.state), h("div", {},
      h("p.word", {}, WORDS[pipeline.state] ?? pipeline.state), sentence,
      h("p.as-of", {}, "as of ", when(pipeline.as_of))));
    if (rest.firstElementChild !== parts[0]) rest.replaceChildren(...parts);
    [problems(pipeline), path(pipeline), instances(pipeline), flushes(pipeline)].forEach((content, i) => refresh(parts[i], content));
  }, signal);
}

// refresh leaves what has not changed alone, so that the focus and what is selected stay.
function refresh(part, content) {
  const next = h("section", {}, content);
  if (!part.isEqualNode(next)) part.replaceChildren(...next.childNodes);
}

function problems(p) {
  if (!p.problems?.length) return [];
  return [h("h2", {}, "What to do"), h("ul.problems", {}, p.problems.map((x) =>
    h(`li.${x.severity}`, {}, state(x.severity, x.what), h("p", {}, x.do),
      x.runbook && h("a", { href: `${RUNBOOK}#${x.runbook}`, rel: "noreferrer", "aria-label": `Runbook: ${x.what}` }, "Runbook"))))];
}

// path is the picture: four stations in the order that an update passes them.
function path(p) {
  const alive = p.instances.filter((i) => i.alive);
  const held = alive.reduce((sum, i) => sum + i.held_updates, 0);
  const direct = alive.filter((i) => i.fallback).length;
  const locks = p.locks ?? [];
  const queue = p.queue;
  const used = queue.max_bytes ? Math.min(100, (100 * queue.bytes) / queue.max_bytes) : null;
  return [h("h2", {}, "The path of an update"), h("ol.path", {},
    station("Instances", alive.length < p.instances.length ? "warn" : "ok", `${alive.length} alive`,
      [`${count(held)} updates held`], !p.instances_complete && "only this one is known here"),
    station("Queue", !queue.used ? "ok" : queue.up ? "ok" : "bad", !queue.used ? "not used" : queue.up ? `${count(queue.batches)} batches` : "away",
      queue.used && [bytes(queue.bytes) + (used === null ? "" : ` of ${bytes(queue.max_bytes)}`), queue.batches > 0 && `oldest ${seconds(queue.oldest_age_seconds)}`],
      queue.error || (direct > 0 && `${direct} write directly`)),
    station("Lock holder", "ok", locks.some((l) => l.holder) ? [...new Set(locks.map((l) => l.holder).filter(Boolean))].join(", ") : "nobody",
      locks.slice(0, 4).map((l) => `shard ${l.shard}: ${l.holder ? seconds(l.held_seconds) : "free"}`),
      locks.length > 4 && `and ${locks.length - 4} more shards`),
    station("Postgres", p.postgres.up ? "ok" : "bad", p.postgres.up ? `${count(p.postgres.updates)} updates` : "away",
      [dollars(p.postgres.amount ?? "0"), p.postgres.up && `${p.postgres.connections} of ${p.postgres.max_connections} connections`,
        p.postgres.version && `Postgres ${p.postgres.version}`], p.postgres.error))];
}

function station(name, sign, number, lines, note) {
  return h(`li.${sign}`, {}, h("h3", {}, icon(sign), " ", name), h("p.big", {}, number),
    (lines || []).filter(Boolean).map((line) => h("p", {}, line)), note && h("p.note", {}, note));
}

function instances(p) {
  return table("Instances", [
    { name: "Instance", cell: (i) => [h("strong", {}, i.instance), i.self && h("span.chip", {}, "this one")] },
    { name: "State", cell: (i) => state(i.alive ? (i.fallback ? "warn" : "ok") : "bad", i.alive ? (i.fallback ? "writes directly" : "alive") : "gone") },
    { name: "Lock of shards", cell: (i) => (i.holds_shards?.length ? i.holds_shards.join(", ") : "–") },
    { name: "Held updates", number: true, cell: (i) => count(i.held_updates) },
    { name: "Held amount", number: true, cell: (i) => dollars(i.held_amount) },
    { name: "Keys", number: true, cell: (i) => count(i.keys) },
    { name: "Unconfirmed batches", number: true, cell: (i) => count(i.unconfirmed_batches) },
    { name: "Behind", number: true, cell: (i) => seconds(i.behind_seconds) },
    { name: "Running for", number: true, cell: (i) => since(i.started_at, p.as_of) },
    { name: "Seen", number: true, cell: (i) => since(i.seen_at, p.as_of) + " ago" },
    { name: "Version", cell: (i) => i.version },
  ], p.instances);
}

function flushes(p) {
  return table("Last flushes", [
    { name: "When", cell: (f) => when(f.at) },
    { name: "By", cell: (f) => f.instance },
    { name: "Shard", number: true, cell: (f) => f.shard },
    { name: "Batches", number: true, cell: (f) => count(f.batches) },
    { name: "Rows", number: true, cell: (f) => count(f.rows) },
    { name: "Updates", number: true, cell: (f) => count(f.updates) },
    { name: "Amount", number: true, cell: (f) => dollars(f.amount) },
    { name: "Took", number: true, cell: (f) => seconds(f.duration_seconds) },
    { name: "Behind", number: true, cell: (f) => seconds(f.behind_seconds) },
  ], p.flushes ?? [], "No instance has flushed anything yet.");
}
