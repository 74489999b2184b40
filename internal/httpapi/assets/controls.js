// The choices of what is shown. Each goes to the address of the same view with another query.
import { h, renew } from "./dom.js";
import { withQuery } from "./api.js";
import { ZONE } from "./format.js";
import { datesOf, isZone, problemOf, queryOf, AMOUNTS, GROUPS, MEASURES, RANGES } from "./scope.js";
import { zoneOf, zones } from "./zones.js";

// controls makes them once; show lets them say what the scope is. A list has no chart, and none of its choices.
export function controls(path, isList = false) {
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
  const complain = (text, ...inputs) => {
    problem.textContent = text;
    for (const input of [...Object.values(dates), zone.input]) input.toggleAttribute("aria-invalid", inputs.includes(input));
  };
  const zone = zoneChoice((tz) => tz !== scope.tz && go({ tz }), (text) => complain(text, zone.input));
  const element = h("form.controls", { "aria-label": "What is shown", novalidate: true },
    choice("Range", "range"),
    h("fieldset.dates", {}, h("legend.unseen", {}, "Custom dates"), date("First day", "from"), date("Last day", "to"), h("button", { type: "submit" }, "Show these days")),
    !isList && [choice("By", "by"), choice("Stacked by", "group"), choice("Measure", "measure")],
    zone.element, choice("Amounts", "amounts"), problem);
  element.addEventListener("submit", (event) => {
    event.preventDefault();
    if (document.activeElement === zone.input) return zone.take(); // Enter there isn't about the dates
    const chosen = { from: dates.from.value, to: dates.to.value };
    const wrong = problemOf(chosen);
    complain(wrong, ...(wrong ? Object.values(dates) : []));
    if (wrong) (chosen.from ? dates.to : dates.from).focus();
    else go({ range: "custom", ...chosen });
  });
  const show = (now) => {
    scope = now;
    for (const [name, values] of Object.entries({ range: RANGES, by: scope.steps, group: GROUPS, measure: MEASURES, amounts: AMOUNTS })) {
      if (!selects[name]) continue;
      renew(selects[name], Object.entries(values).map(([value, text]) => h("option", { value }, text)));
      selects[name].value = scope[name];
    }
    zone.show(scope.tz);
    const { from, to } = datesOf(scope);
    Object.assign(dates.from, { value: from });
    Object.assign(dates.to, { value: to });
    complain(scope.problem, ...(scope.problem ? Object.values(dates) : []));
  };
  return { element, show };
}

// zoneChoice is a field for the name of any time zone, with all of them to choose from.
function zoneChoice(choose, complain) {
  let current = "";
  const list = h("datalist", { id: "zones" });
  const input = h("input", { name: "tz", list: "zones", autocomplete: "off", spellcheck: "false", "aria-describedby": "dates-problem" });
  const take = async () => {
    const name = input.value;
    if (!name) return;
    try {
      const known = await zoneOf(name);
      if (input.value !== name) return; // it is being written on
      if (known && !isZone(known)) complain(`This browser doesn't know the time zone ${known}.`);
      else if (known) choose(input.value = known);
      else complain(`No time zone is called ${name}. Write a name such as Europe/Berlin, Asia/Kolkata or UTC.`);
    } catch (error) {
      complain(error.message);
    }
  };
  // Browsers offer what holds the text that is there: an empty field has all of them.
  input.addEventListener("focus", () => {
    Object.assign(input, { placeholder: current, value: "" });
    if (!list.childElementCount) zones().then((all) => list.replaceChildren(...[...new Set([ZONE, "UTC", ...all])].map((value) => h("option", { value }))), () => {});
  });
  input.addEventListener("blur", () => { input.value ||= current; });
  input.addEventListener("change", take);
  const show = (tz) => {
    current = tz;
    if (document.activeElement === input) Object.assign(input, { placeholder: tz, value: "" });
    else input.value = tz;
  };
  return { element: h("label", {}, h("span", {}, "Time zone"), input, list), input, show, take };
}
