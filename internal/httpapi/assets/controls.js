// The choices of what is shown. Each goes to the address of the same view with another query.
import { h, renew } from "./dom.js";
import { withQuery } from "./api.js";
import { ZONE } from "./format.js";
import { datesOf, problemOf, queryOf, GROUPS, MEASURES, RANGES } from "./scope.js";

// controls makes them once; show lets them say what the scope is.
export function controls(path) {
  let scope;
  const go = (change) => { location.hash = withQuery(`#${path}`, queryOf({ ...scope, ...change })); };
  const selects = {};
  const choice = (label, name) => {
    selects[name] = h("select", { name, onchange: (event) => go({ [name]: event.target.value, ...(event.target.value === "custom" && datesOf(scope)) }) });
    return h("label", {}, h("span", {}, label), selects[name]);
  };
  const dates = {};
  const date = (label, name) => {
    dates[name] = h("input", { type: "date", name, required: true, "aria-describedby": "dates-problem" });
    return h("label", {}, h("span", {}, label), dates[name]);
  };
  const problem = h("p.says", { id: "dates-problem", role: "alert" });
  const complain = (text) => {
    problem.textContent = text;
    for (const input of Object.values(dates)) input.toggleAttribute("aria-invalid", Boolean(text));
  };
  const element = h("form.controls", { "aria-label": "What is shown", novalidate: true },
    choice("Range", "range"),
    h("fieldset.dates", {}, h("legend.unseen", {}, "Custom dates"), date("First day", "from"), date("Last day", "to"), h("button", { type: "submit" }, "Show these days")),
    choice("By", "by"), choice("Stacked by", "group"), choice("Measure", "measure"), choice("Time zone", "tz"), problem);
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    const chosen = { from: dates.from.value, to: dates.to.value };
    complain(problemOf(chosen));
    if (problem.textContent) (chosen.from ? dates.to : dates.from).focus();
    else go({ range: "custom", ...chosen });
  });
  const show = (now) => {
    scope = now;
    const zones = Object.fromEntries([ZONE, "UTC", scope.tz].map((z) => [z, z]));
    for (const [name, values] of Object.entries({ range: RANGES, by: scope.steps, group: GROUPS, measure: MEASURES, tz: zones })) {
      renew(selects[name], Object.entries(values).map(([value, text]) => h("option", { value }, text)));
      selects[name].value = scope[name];
    }
    const { from, to } = datesOf(scope);
    Object.assign(dates.from, { value: from });
    Object.assign(dates.to, { value: to });
    complain(scope.problem);
  };
  return { element, show };
}
