// What one entity has spent.
import { h, facts, id, renew, visible } from "./dom.js";
import { board } from "./board.js";
import { call, withQuery } from "./api.js";
import { count, money, named, typeName, when, TYPES } from "./format.js";

// entityOf reads the rest of the address of the view: a type, and one id or of a member of a team two, each a part of its
// own. null: it is the address of no entity.
export function entityOf(path) {
  const [type, ...parts] = path.split("/");
  const ids = parts.map(decodeURIComponent);
  const isMember = type === "team_member";
  if (!Object.hasOwn(TYPES, type) || ids.length !== (isMember ? 2 : 1) || ids.includes("")) return null;
  return { entity_type: type, entity_id: ids.at(-1), ...(isMember && { team_id: ids[0] }) };
}

// showEntity shows an entity. What the address says is repeated only where there is such an entity, or that can't be found
// out: a link may say anything.
export function showEntity(place, path, query, signal, entitle) {
  const entity = entityOf(path), type = typeName(entity.entity_type);
  const chip = h("span.chip", {}, type), heading = h("h1", {}, chip);
  const name = () => {
    renew(heading, chip, " ", named(entity));
    entitle([entity.entity_id, entity.team_id].filter(Boolean).map(visible).join(" of "));
  };
  const ever = {
    place: h("div"), what: "its totals",
    load: async (mine) => {
      const e = await call(withQuery("/v1/spend", entity), { signal: mine }).catch((error) => {
        if (error.status !== 404 && !mine.aborted) name();
        throw error;
      });
      if (!mine.aborted) name();
      return facts(["Spent so far", money(e.total.spend)], ["of it in Postgres", money(e.committed.spend)],
        [["held by ", id(e.instance)], money(e.held.spend)], ["Requests", count(e.total.api_requests)], ["Last booked", when(e.updated_at)]);
    },
  };
  place.append(h("p.back", {}, h("a", { href: "#/spend" }, "← Spend")), heading, ever.place, h("h2", {}, "In this time"));
  return board(place, {
    path: `/entity/${path}`, whose: entity,
    lists: ["model", "api_key", "user_id", "custom_llm_provider"].filter((group) => group !== `${entity.entity_type}_id` && group !== entity.entity_type), before: [ever],
  }, query, signal);
}

export const titleOfEntity = (path) => typeName(entityOf(path).entity_type);
