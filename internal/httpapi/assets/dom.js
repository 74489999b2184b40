// Elements. Texts become text nodes: nothing that comes from the API is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

// h makes an element: "tag.class", attributes ("on…" are listeners, null and false are left out), children.
export function h(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

const ICONS = {
  ok: "M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20zm-1.5 14.5L6 12l1.7-1.7 2.8 2.8 5.8-5.8L18 9z",
  warn: "M12 2 1 21h22zm-1 7h2v6h-2zm0 8h2v2h-2z",
  bad: "M8 2h8l6 6v8l-6 6H8l-6-6V8zm3 5v6h2V7zm0 8v2h2v-2z",
};

// icon draws the sign of a state; its meaning is in a text beside it.
export function icon(state) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `icon ${state}`);
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[state] ?? ICONS.warn);
  path.setAttribute("fill-rule", "evenodd");
  svg.append(path);
  return svg;
}

export const state = (name, text) => h(`span.state.${name}`, {}, icon(name), " ", text);

// table makes a table with a caption. columns: {name, cell(row), number}. On narrow screens each row becomes a card, for
// which the roles say again that it is a table.
export function table(caption, columns, rows, empty = "Nothing here.") {
  if (!rows.length) return h("div", {}, h("h3", {}, caption), h("p.empty", {}, empty));
  const kind = (c) => (c.number ? "td.number" : "td");
  return h("table.cards", { role: "table" },
    h("caption", {}, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" },
      columns.map((c) => h(c.number ? "th.number" : "th", { scope: "col", role: "columnheader" }, c.name)))),
    h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { role: "row" },
      columns.map((c) => h(kind(c), { role: "cell", "data-label": c.name }, h("span", {}, c.cell(row))))))));
}

export const facts = (...pairs) => h("dl.facts", {}, pairs.filter(Boolean).map(([name, value]) =>
  h("div", {}, h("dt", {}, name), h("dd", {}, value))));

// failure shows an error where its content would be.
export function failure(error, again) {
  return h("div.failure", { role: "alert" }, state("bad", error.title ?? "That failed"),
    h("p", {}, error.message), again && h("button", { type: "button", onclick: again }, "Try again"));
}

export const loading = (what) => h("p.loading", { role: "status" }, `Loading ${what} …`);

// fill shows what a promise brings: a note while it waits, an error if it fails.
export async function fill(place, what, load, signal) {
  if (!place.childElementCount) place.replaceChildren(loading(what));
  place.setAttribute("aria-busy", "true");
  try {
    const content = await load();
    if (!signal.aborted) place.replaceChildren(...[content].flat());
  } catch (error) {
    if (!signal.aborted) place.replaceChildren(failure(error, () => fill(place, what, load, signal)));
  }
  place.removeAttribute("aria-busy");
}
