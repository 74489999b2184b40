// What could not be booked, what was lost, and whether the books add up.
import { h, fill, state, table, facts } from "./dom.js";
import { call, withQuery, report } from "./api.js";
import { bytes, count, dollars, seconds, when, TYPES } from "./format.js";
import { last } from "./live.js";
import { ask, showEntry } from "./entry.js";

const STATES = { open: "open", applied: "applied", dropped: "dropped", all: "all" };

export function showTrouble(place, _, query, signal) {
  const audit = h("div", { "aria-live": "polite" }), quarantine = h("div"), lost = h("div");
  const chosen = Object.hasOwn(STATES, query.get("state") ?? "") ? query.get("state") : "open";
  place.append(h("h1", {}, "Trouble"),
    h("section.card", {}, h("h2", {}, "Audit"), h("p", {}, "Proves in one snapshot of Postgres that the books add up. It reads everything."),
      h("button.main", { type: "button", id: "audit", onclick: (event) => runAudit(event.currentTarget, audit, signal) }, "Audit now"), audit),
    h("section", {}, h("h2", {}, "Quarantine"), h("p", {}, "What could not be booked. Apply books an entry once its cause is mended, and only once; drop gives it up."),
      h("nav.tabs", { "aria-label": "Which entries" }, Object.keys(STATES).map((s) =>
        h("a", { href: `#/trouble?state=${s}`, "aria-current": s === chosen ? "true" : null }, STATES[s]))), quarantine),
    h("section", {}, h("h2", {}, "Lost batches"), h("p", {}, "Batches that no living instance has any more, with what they counted."), lost));
  if (last?.last_audit) {
    const a = last.last_audit;
    audit.append(h("p", {}, state(a.ok ? "ok" : "bad", a.ok ? "The books added up" : "The books did not add up"), " at ", when(a.at)));
  }
  const reload = () => fill(quarantine, "the quarantine", () => entries(chosen, 0, reload, signal), signal);
  reload();
  fill(lost, "lost batches", () => lostBatches(0, signal), signal);
}

async function entries(chosen, after, reload, signal) {
  const answer = await call(withQuery("/v1/quarantine", { state: chosen, after: after || "", limit: 50 }), { signal });
  const place = h("div");
  place.append(table(`Entries: ${chosen}`, [
    { name: "Entry", cell: (e) => `${e.id}, a ${e.kind}` },
    { name: "State", cell: (e) => state(e.state === "open" ? "warn" : "ok", e.state) },
    { name: "Since", cell: (e) => when(e.created_at) },
    { name: "What", cell: what },
    { name: "Amount", number: true, cell: (e) => (e.spend === undefined ? "unknown" : dollars(e.spend)) },
    { name: "Requests", number: true, cell: (e) => count(e.api_requests ?? e.updates) },
    { name: "Reason", cell: (e) => e.reason },
    { name: "Do", cell: (e) => h("span.actions", {},
      h("button", { type: "button", "aria-label": `Show entry ${e.id}`, onclick: () => showEntry(e.id, signal) }, "Show"),
      e.state === "open" && [
        h("button", { type: "button", "aria-label": `Apply entry ${e.id}`, onclick: () => ask("apply", e, reload) }, "Apply"),
        h("button.danger", { type: "button", "aria-label": `Drop entry ${e.id}`, onclick: () => ask("drop", e, reload) }, "Drop")]) },
  ], answer.entries, chosen === "open" ? "Nothing is open in quarantine." : "No entries."));
  if (answer.next) place.append(more(() => entries(chosen, answer.next, reload, signal)));
  return place;
}

export function what(e) {
  if (e.entity) return `${TYPES[e.entity.entity_type] ?? e.entity.entity_type} ${e.entity.entity_id}${e.entity.team_id ? ` of ${e.entity.team_id}` : ""}`;
  if (e.series) return `rollup of ${Object.values(e.series).flat().join(", ")}`;
  if (e.sequence) return `producer ${e.producer}, batch ${e.sequence}`;
  return e.size === undefined ? e.book ?? e.kind : bytes(e.size);
}

async function lostBatches(after, signal) {
  const answer = await call(withQuery("/v1/lost-batches", { after: after || "", limit: 50 }), { signal });
  const place = h("div");
  place.append(table("Lost", [
    { name: "Noticed", cell: (b) => when(b.noticed_at) },
    { name: "Producer", cell: (b) => b.producer },
    { name: "Shard", number: true, cell: (b) => b.shard },
    { name: "Batch", number: true, cell: (b) => b.sequence },
    // Of one batch alone it isn't known; of all that its producer lost in the shard it is.
    { name: "Missing of its producer", number: true, cell: (b) => (b.found_at ? "found, counted" : b.producer_missing_updates === null ? "unknown" : `${count(b.producer_missing_updates)} updates, ${dollars(b.producer_missing_amount)}`) },
    { name: "Reason", cell: (b) => b.reason },
  ], answer.lost_batches, "No batch was ever lost."));
  if (answer.next) place.append(more(() => lostBatches(answer.next, signal)));
  return place;
}

function more(load) {
  const button = h("button", { type: "button" }, "More");
  button.addEventListener("click", async () => {
    button.disabled = true;
    button.replaceWith(await load().catch((error) => h("p.failure", { role: "alert" }, error.message)));
  });
  return button;
}

async function runAudit(button, place, signal) {
  button.disabled = true;
  await fill(place, "the books", async () => {
    const start = performance.now();
    const a = await report("/v1/audit", {}, signal);
    const took = a.took_seconds ?? (performance.now() - start) / 1000;
    return [h("p.result", {}, state(a.ok ? "ok" : "bad", a.ok ? "The books add up" : "The books do NOT add up"), " as of ", when(a.as_of), `, took ${seconds(took)}`),
      table("What was checked", [
        { name: "Check", cell: (c) => c.name },
        { name: "Result", cell: (c) => state(c.skipped ? "warn" : c.ok ? "ok" : "bad", c.skipped ? "skipped" : c.ok ? "right" : "wrong") },
        { name: "Detail", cell: (c) => [c.skipped || c.detail, (c.entities ?? []).map((e) =>
          h("p", {}, `${e.entity_type} ${e.entity_id}: total ${e.total_spend}, rollups ${e.rollup_spend}`))] },
      ], a.checks), facts(["Open in quarantine", count(a.quarantined)], ["Lost batches", count(a.lost_batches)])];
  }, signal);
  button.disabled = false;
}
