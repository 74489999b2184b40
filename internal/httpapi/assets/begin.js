// What to do with books that are empty: how to book something.
import { documentURL, h } from "./dom.js";
import { at } from "./api.js";
import { whose } from "./rights.js";

// isEmpty says whether nothing was ever booked, by what is known of the pipeline.
export const isEmpty = (pipeline) => Boolean(pipeline?.postgres.up) && Number(pipeline.postgres.updates) === 0;

// howToBook shows a line that books an update at this instance.
export function howToBook() {
  const token = whose() ? " -H \"Authorization: Bearer $TOKEN\"" : "";
  const line = `curl -fsS '${at("/v1/updates?ack=committed")}'${token} -H 'Content-Type: application/json' -d '{"spend": "0.0042", "team_id": "team-1", "user_id": "ada", "model": "gpt-5", "prompt_tokens": 1200, "completion_tokens": 180}'`;
  return h("section.card.begin", { "aria-label": "How to book" }, h("h2", {}, "Nothing was ever booked"),
    h("p", {}, "Book what a request cost with this line; it shows here at once."), h("pre", { tabindex: "0" }, h("code", {}, line)),
    whose() && h("p", {}, "TOKEN is a token with the role write."),
    h("p", {}, h("a", { href: documentURL("api"), rel: "noreferrer" }, "All that an update may have, and clients that never count one twice")));
}
