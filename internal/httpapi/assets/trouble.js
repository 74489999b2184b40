// What could not be booked, what was lost, and whether the books add up.
import { documentURL, h, fill, id, renew, state, table, facts } from "./dom.js";
import { call, withQuery, report } from "./api.js";
import { bytes, count, counted, dollars, seconds, named, when, whenInZone, typeName } from "./format.js";
import { watch } from "./live.js";
import { ask, ofSeries, showEntry } from "./entry.js";
import { lacks, may } from "./rights.js";

const STATES = ["open", "applied", "dropped", "all"];

export function showTrouble(place, _, query, signal) {
  const quarantine = h("div"), lost = h("div"), tabs = h("nav.tabs", { "aria-label": "Which entries" });
  const conflicts = h("p.hint", { hidden: true }, "A conflict holds updates whose ids were given to something else before, which is booked. " +
    "A client has used ids twice: find out which, and have it mend that. ",
  h("a", { href: documentURL("runbook", "conflicts-of-ids"), rel: "noreferrer" }, "Conflicts in the runbook"));
  const heading = h("h2", { tabindex: -1 }, "Quarantine"), said = h("p.said", { role: "status" });
  let chosen, listed = null, seen = "", looking = false, turn = new AbortController(); // listed: how many open entries are shown, if all are
  const settled = (text) => {
    said.textContent = text;
    reload();
  };
  const reload = async (quietly) => {
    turn.abort();
    turn = new AbortController();
    const isWithin = quarantine.contains(document.activeElement);
    const mine = AbortSignal.any([signal, turn.signal]);
    const failed = await fill(quarantine, "the quarantine", async () => {
      const answer = await entriesIn(chosen, 0, mine);
      listed = chosen === "open" && !answer.next ? answer.entries.length : null;
      conflicts.hidden = !answer.entries.some((e) => e.kind === "conflict");
      return entries(chosen, answer, settled, signal);
    }, mine, quietly);
    if (isWithin && document.activeElement === document.body) heading.focus(); // what had the focus isn't listed any more
    return failed;
  };
  const loadLost = (quietly) => fill(lost, "lost batches", () => lostBatches(0, signal), signal, quietly);
  const show = (now) => {
    chosen = STATES.includes(now.get("state")) ? now.get("state") : "open";
    renew(tabs, STATES.map((s) => h("a", { href: `#/trouble?state=${s}`, "aria-current": s === chosen ? "true" : null }, s)));
    said.textContent = "";
    reload();
  };
  place.append(h("h1", {}, "Trouble"), audits(signal),
    h("section", {}, heading, h("p", {}, "What could not be booked. Apply books an entry once its cause is mended, and only once; drop gives it up."),
      conflicts,
      !may("operate") && h("p.hint", {}, `To apply or drop: ${lacks("operate")}`), tabs, said, quarantine),
    h("section", {}, h("h2", {}, "Lost batches"), h("p", {}, "Batches that no living instance has any more, with what they counted."), lost));
  show(query);
  loadLost();
  watch(async (pipeline, connected) => {
    if (!pipeline || !connected || looking) return;
    const now = `${pipeline.quarantined} ${pipeline.lost_batches}`;
    const isNews = (seen && now !== seen) || (listed !== null && listed !== pipeline.quarantined);
    seen = now;
    if (!isNews) return;
    looking = true;
    if ((await Promise.all([reload(true), loadLost(true)])).some(Boolean)) seen = "again";
    looking = false;
  }, signal);
  return show;
}

// audits tells of the last audit, whoever made it, and makes one.
function audits(signal) {
  const result = h("div", { "aria-live": "polite" });
  const isAllowed = may("operate");
  const button = h("button.main", { type: "button", id: "audit", disabled: !isAllowed, "aria-describedby": isAllowed ? null : "no-audit" }, "Audit now");
  let asked = false;
  button.addEventListener("click", async () => {
    asked = button.disabled = true;
    button.textContent = "Auditing …";
    await fill(result, "the books", async () => verdict(await report("/v1/audit", {}, signal)), signal);
    button.disabled = false;
    button.textContent = "Audit now";
    if (document.activeElement === document.body) button.focus();
  });
  watch((pipeline) => {
    if (!pipeline || asked) return;
    const a = pipeline.last_audit;
    renew(result, h("p.result", {}, a ? [state(a.ok ? "ok" : "bad", a.ok ? "The books added up" : "The books did NOT add up"),
      " as of ", whenInZone(a.at), `; it took ${seconds(a.took_seconds)}`] : "No audit is known yet."));
  }, signal);
  return h("section.card", {}, h("h2", {}, "Audit"),
    h("p", {}, "Proves in one snapshot of Postgres that the books add up. It reads everything."), button,
    !isAllowed && h("p.hint", { id: "no-audit" }, lacks("operate")), result);
}

function verdict(a) {
  return [h("p.result", {}, state(a.ok ? "ok" : "bad", a.ok ? "The books add up" : "The books do NOT add up"), " as of ", whenInZone(a.as_of),
    `; it took ${seconds(a.took_seconds)}`),
  table("What was checked", [
    { name: "Check", cell: (c) => c.name },
    { name: "Result", cell: (c) => state(c.ok ? "ok" : "bad", c.ok ? "right" : "wrong") },
    { name: "Detail", wide: true, cell: (c) => [c.detail, (c.entities ?? []).map((e) =>
      h("p", {}, e.entity_type, " ", named(e), `: total ${e.total_spend}, rollups ${e.rollup_spend}`)),
    c.days ? h("p", {}, `days (UTC): ${c.days.join(", ")}`) : ""] },
  ], a.checks), facts(["Open in quarantine", count(a.quarantined)], ["Lost batches", count(a.lost_batches)],
    ["Batches set aside", count(a.set_aside.batches)])];
}

const entriesIn = (chosen, after, signal) => call(withQuery("/v1/quarantine", { state: chosen, after: after || "", limit: 50 }), { signal });

function entries(chosen, answer, settled, signal) {
  const place = h("div");
  place.append(table(`Entries: ${chosen}`, [
    { name: "Entry", cell: (e) => h("span.whole", {}, h("strong", {}, e.id), h("span.chip", {}, e.kind)) },
    { name: "State", cell: (e) => state(e.state === "open" ? "warn" : "ok", e.state) },
    { name: "Since", cell: (e) => when(e.created_at) },
    { name: "What", wide: true, cell: what },
    { name: "Amount", money: (e) => e.spend },
    { name: "Requests", number: true, cell: (e) => count(e.api_requests ?? e.updates) },
    { name: "Reason", wide: true, cell: (e) => e.reason },
    { name: "Do", wide: true, cell: (e) => h("span.actions", {},
      h("button", { type: "button", "aria-label": `Show entry ${e.id}`, onclick: () => showEntry(e.id, settled, signal) }, "Show"),
      e.state === "open" && may("operate") && [
        h("button", { type: "button", "aria-label": `Apply entry ${e.id}`, onclick: () => ask("apply", e, settled, signal) }, "Apply"),
        h("button.danger", { type: "button", "aria-label": `Drop entry ${e.id}`, onclick: () => ask("drop", e, settled, signal) }, "Drop")]) },
  ], answer.entries, { titled: true, empty: chosen === "open" ? "Nothing is open in quarantine." : chosen === "all" ? "Nothing was ever in quarantine." : `Nothing was ${chosen}.` }));
  if (answer.next) place.append(more(answer.next, async () => entries(chosen, await entriesIn(chosen, answer.next, signal), settled, signal)));
  return place;
}

export function what(e) {
  if (e.entity) return [typeName(e.entity.entity_type), " ", named(e.entity)];
  if (e.series) return ["rollup of ", ofSeries(e.series)];
  if (e.kind === "conflict") return `${counted(e.updates, "update")} under ids used before, of producer ${e.producer}, batch ${e.sequence}`;
  if (e.sequence) return `producer ${e.producer}, batch ${e.sequence}`;
  return e.size === undefined ? e.book ?? e.kind : `a batch of ${bytes(e.size)}`;
}

async function lostBatches(after, signal) {
  const answer = await call(withQuery("/v1/lost-batches", { after: after || "", limit: 50 }), { signal });
  const place = h("div");
  place.append(table("Lost batches", [
    { name: "Noticed", cell: (b) => when(b.noticed_at) },
    { name: "Producer", wide: true, cell: (b) => b.producer },
    { name: "Shard", number: true, cell: (b) => b.shard },
    { name: "Batches", number: true, cell: (b) => (b.batches === 1 ? b.first_sequence : `${b.first_sequence} to ${b.last_sequence} (${count(b.batches)})`) },
    // Of one batch alone it isn't known; of all that its producer lost in the shard it is.
    { name: "Missing of its producer", number: true, wide: true, cell: (b) => (b.found_at ? "found, counted" : b.producer_missing_updates === null ? "unknown" :
      [`${counted(b.producer_missing_updates, "update")}, `, dollars(b.producer_missing_amount)]) },
    { name: "Reason", wide: true, cell: (b) => b.reason },
  ], answer.lost_batches, { titled: true, empty: "No batch was ever lost." }));
  if (answer.next) place.append(more(answer.next, () => lostBatches(answer.next, signal)));
  return place;
}

// more is a button that gives way to what load brings, which is what comes after next.
function more(next, load) {
  const button = h("button", { type: "button", "data-key": next }, "More");
  button.addEventListener("click", async () => {
    button.disabled = true;
    button.replaceWith(await load().catch((error) => h("p.failure", { role: "alert" }, error.message)));
  });
  return button;
}
