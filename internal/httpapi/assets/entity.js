// What one entity has spent.
import { h, fill, facts } from "./dom.js";
import { call } from "./api.js";
import { count, dollars, when, TYPES } from "./format.js";
import { controls, csvLink, scopeOf, topLists, totals, usageChart } from "./usage.js";

export function showEntity(place, path, query, signal) {
  const [type, ...escaped] = path.split("/");
  const ids = escaped.map(decodeURIComponent);
  const whose = { entity_type: type, entity_id: ids.at(-1), ...(type === "team_member" && { team_id: ids[0] }) };
  const scope = scopeOf(query);
  const ever = h("div"), sums = h("div"), chart = h("div");
  place.append(h("p", {}, h("a", { href: "#/spend" }, "← Spend")),
    h("h1", {}, h("span.chip", {}, TYPES[type] ?? type), " ", ids.at(-1), type === "team_member" && ` of ${ids[0]}`),
    ever, controls(`/entity/${path}`, scope), h("h2", {}, "In this time"), sums, chart, h("p", {}, csvLink(scope, whose)),
    topLists(["model", "api_key", "user_id", "custom_llm_provider"], scope, whose, signal));
  fill(ever, "its totals", async () => {
    const e = await call(`/v1/spend/${path}`, { signal });
    return facts(["Spent so far", dollars(e.total.spend)], ["of it in Postgres", dollars(e.committed.spend)],
      [`held by ${e.instance}`, dollars(e.held.spend)], ["Requests", count(e.total.api_requests)], ["Last booked", when(e.updated_at)]);
  }, signal);
  fill(sums, "the totals", () => totals(scope, whose, signal), signal);
  fill(chart, "the chart", () => usageChart(scope, whose, signal), signal);
}
