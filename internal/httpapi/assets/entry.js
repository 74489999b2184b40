// One entry of the quarantine: all about it, and the questions before it is applied or dropped.
import { h, fill, renew, facts, table, failure, id } from "./dom.js";
import { call } from "./api.js";
import { count, counted, dollars, named, when, bytes } from "./format.js";
import { lacks, may } from "./rights.js";
import { what } from "./trouble.js";

// open shows a dialog, which gives the focus back when it closes. It closes when the view is left, too.
function open(title, signal, ...children) {
  const box = h("dialog", { "aria-labelledby": "dialog-title" },
    h("h2", { id: "dialog-title" }, title), children);
  box.addEventListener("close", () => box.remove());
  signal.addEventListener("abort", () => box.close());
  document.body.append(box);
  box.showModal();
  return box;
}

export function showEntry(number, settled, signal) {
  const place = h("div"), form = h("form.actions", { method: "dialog" }, h("button", {}, "Close"));
  const box = open(`Entry ${number}`, signal, place, form);
  fill(place, `entry ${number}`, async () => {
    const e = await call(`/v1/quarantine/${number}`, { signal });
    const settle = (action) => () => { box.close(); ask(action, e, settled, signal); };
    if (e.state === "open" && !may("operate")) {
      renew(form, h("p.hint", {}, `To apply or drop: ${lacks("operate")}`), form.lastChild);
    } else if (e.state === "open") {
      renew(form, h("button", { type: "button", onclick: settle("apply") }, "Apply …"), h("button.danger", { type: "button", onclick: settle("drop") }, "Drop …"), form.lastChild);
    }
    return [facts(["What", what(e)], ["State", e.state], ["Since", when(e.created_at)], e.settled_at && ["Settled", [when(e.settled_at), e.settled_by && [" by ", id(e.settled_by)]]],
      ["Reason", e.reason], e.advice && ["What to do", e.advice], e.size !== undefined && ["Size", bytes(e.size)],
      e.spend !== undefined && ["Amount", dollars(e.spend)], (e.api_requests ?? e.updates) !== undefined && ["Requests", count(e.api_requests ?? e.updates)],
      e.unreadable && ["Unreadable", e.unreadable]),
    e.ids && idsIn(e),
    e.totals && table("Totals in it", [
      { name: "Of", cell: (t) => [t.entity_type, " ", named(t)] },
      { name: "Amount", money: (t) => t.spend },
      { name: "Requests", number: true, cell: (t) => count(t.api_requests) }], e.totals),
    e.first_bytes && h("div", {}, h("h3", {}, "Its first bytes"), h("pre", { tabindex: 0 }, e.first_bytes.replace(/../g, "$& ")))].filter(Boolean);
  }, signal);
}

// idsIn lists the ids of an entry. The books have no text of an id, but what it is known by.
function idsIn(e) {
  return h("div", {}, table("Ids in it", [
    { name: "Identity", cell: (i) => h("code.identity", {}, i.identity) },
    { name: "Names", cell: (i) => (i.kind === "request" ? "a request" : "an update") },
    { name: "Of", wide: true, cell: (i) => (i.series ? ofSeries(i.series) : counted(i.updates, "update")) },
    { name: "Amount", money: (i) => i.spend }], e.ids),
  h("p.hint", {}, e.all_ids > e.ids.length && `These are the first of ${count(e.all_ids)}. `,
    "An id itself is not in the books. Whoever knows it finds its identity at ", h("code", {}, "/v1/ids/{id}"), "."));
}

export const ofSeries = (series) => Object.values(series).flat().map((text, i) => [i > 0 && ", ", id(text)]);

const OF_CONFLICTS = {
  apply: "It is added to the books, once, beside what was booked first under the same ids. Do it if this is something else, which costs money, too.",
  drop: "It is given up, and what was booked first under these ids stays. Do it if both are the same thing. This can't be undone.",
};

const QUESTIONS = {
  apply: { title: "Apply", says: "It is added to the books, once, whoever else applies it too. Do it once the cause that its reason tells of is mended." },
  drop: { title: "Drop", says: "It is given up: what it counts is not added to the books. This can't be undone." },
};

// ask wants the id of the entry to be typed before it settles it. settled hears what was done.
export function ask(action, entry, settled, signal) {
  const { title, says } = QUESTIONS[action];
  const problem = h("div");
  const typed = h("input", { id: "typed", inputmode: "numeric", autocomplete: "off", autofocus: true });
  const sure = h(action === "drop" ? "button.danger" : "button.main", { type: "submit", disabled: true }, `${title} entry ${entry.id}`);
  typed.addEventListener("input", () => { sure.disabled = typed.value.trim() !== String(entry.id); });
  const form = h("form", {}, h("p", {}, entry.kind === "conflict" ? OF_CONFLICTS[action] : says),
    facts(["What", what(entry)], ["Amount", entry.spend === undefined ? "unknown" : dollars(entry.spend)], ["Reason", entry.reason]),
    h("label", { for: "typed" }, `Type ${entry.id} to confirm`), typed, problem,
    h("p.actions", {}, sure, h("button", { type: "button", onclick: () => box.close() }, "Cancel")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    sure.disabled = true;
    try {
      await call(`/v1/quarantine/${entry.id}/${action}`, { method: "POST", body: { id: entry.id } });
      box.close();
      settled(`Entry ${entry.id} was ${action === "drop" ? "dropped" : "applied: it is in the books"}.`);
    } catch (error) {
      problem.replaceChildren(failure(error));
      sure.disabled = false;
      if (error.status === 409) settled(""); // another operator may have settled it
    }
  });
  const box = open(`${title} entry ${entry.id}?`, signal, form);
}
