// What one entity has spent.
import { h, facts } from "./dom.js";
import { board } from "./board.js";
import { call } from "./api.js";
import { count, dollars, when, TYPES } from "./format.js";

export function showEntity(place, path, query, signal) {
  const [type, ...escaped] = path.split("/");
  const ids = escaped.map(decodeURIComponent);
  const ever = {
    place: h("div"), what: "its totals",
    load: async (mine) => {
      const e = await call(`/v1/spend/${path}`, { signal: mine });
      return facts(["Spent so far", dollars(e.total.spend)], ["of it in Postgres", dollars(e.committed.spend)],
        [`held by ${e.instance}`, dollars(e.held.spend)], ["Requests", count(e.total.api_requests)], ["Last booked", when(e.updated_at)]);
    },
  };
  place.append(h("p", {}, h("a", { href: "#/spend" }, "← Spend")),
    h("h1", {}, h("span.chip", {}, TYPES[type] ?? type), " ", ids.at(-1), type === "team_member" && ` of ${ids[0]}`),
    ever.place, h("h2", {}, "In this time"));
  return board(place, {
    path: `/entity/${path}`, whose: { entity_type: type, entity_id: ids.at(-1), ...(type === "team_member" && { team_id: ids[0] }) },
    lists: ["model", "api_key", "user_id", "custom_llm_provider"].filter((group) => group !== `${type}_id` && group !== type), before: [ever],
  }, query, signal);
}

export const titleOfEntity = (path) => path.split("/").slice(1).map(decodeURIComponent).reverse().join(" of ");
