// Elements. Texts become text nodes: nothing that comes from the API is ever read as HTML.

import { aligned } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";

const listening = new WeakSet(); // elements that h gave a listener

// What can't be seen, or changes the order of what stands around it: an id can have any of it, and would look like
// another one, or turn its amount around.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]/gu;
const BLANKS = /(?! )\p{Zs}|\\(?=u\{)/gu; // and the backslash of what looks like such a number
const byNumber = (c) => `\\u{${c.codePointAt(0).toString(16)}}`;

// visible tells characters of a text that have no shape by their numbers. h and renew do it with all texts.
export const visible = (text) => String(text).replace(UNSEEN, byNumber);

// documentURL is where a section of a document is. The instance serves them itself, unless its build says otherwise.
export const documentURL = (name, anchor) =>
  document.querySelector("meta[name=docs]").content + name + (anchor ? `#${anchor}` : "");

// id shows a text that others chose, such as an id: the direction of its script ends with it, and all of its blanks show.
export const id = (text) => h("bdi.id", {}, String(text).replace(BLANKS, byNumber) || "(none)");

const SHOWN = new Set(["aria-label", "title", "data-label"]); // attributes whose texts are read or shown

// asNodes makes a list of what an element may have: texts become visible, null and false are left out.
const asNodes = (content) => content.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false)
  .map((c) => (c instanceof Node ? c : document.createTextNode(visible(c))));

// h makes an element: "tag.class", attributes ("on…" are listeners, null and false are left out), children.
export function h(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) {
      element.addEventListener(key.slice(2), value);
      listening.add(element);
    } else element.setAttribute(key, value === true ? "" : SHOWN.has(key) ? visible(value) : value);
  }
  element.append(...asNodes(children));
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

// table makes a table with a caption. columns: {name, cell(row)}, or money(row), a decimal or undefined, instead of cell;
// number aligns to the right, wide takes a line of its own in a card, theirs says that others chose its name. On narrow screens each row becomes a card, for which
// the roles say again that it is a table. titled: a heading before it says already what the caption does.
export function table(caption, columns, rows, { empty = "Nothing here.", titled = false } = {}) {
  if (!rows.length) return h("div", {}, !titled && h("h2", {}, caption), h("p.empty", {}, empty));
  const kinds = columns.map((c) => (c.number || c.money ? ".number" : "") + (c.wide ? ".wide" : ""));
  const cells = columns.map((c) => {
    const align = c.money && aligned(rows.map(c.money));
    return c.money ? (row) => (c.money(row) === undefined ? "unknown" : align(c.money(row))) : c.cell;
  });
  return h("table.cards", { role: "table" },
    h(titled ? "caption.unseen" : "caption", {}, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" },
      columns.map((c, i) => h(`th${kinds[i]}`, { scope: "col", role: "columnheader" }, c.theirs ? id(c.name) : c.name)))),
    h("tbody", { role: "rowgroup" }, rows.map((row) => h("tr", { role: "row" },
      columns.map((c, i) => h(`td${kinds[i]}`, { role: "cell", "data-label": c.name }, h("span", {}, cells[i](row))))))));
}

export const facts = (...pairs) => h("dl.facts", {}, pairs.filter(Boolean).map(([name, value]) =>
  h("div", {}, h("dt", {}, name), h("dd", {}, value))));

// failure shows an error where its content would be.
export function failure(error, again) {
  return h("div.failure", { role: "alert" }, state("bad", error.title ?? "That failed"),
    h("p", {}, error.message), again && h("button", { type: "button", onclick: again }, "Try again"));
}

export const loading = (what) => h("p.loading", { role: "status" }, `Loading ${what} …`);

// renew gives a place the content, in place: what is as before stays the same element, and with it the focus, what is
// selected and how far it is scrolled. Children with a data-key are known by it, others by their position.
export function renew(place, ...content) {
  const focused = document.activeElement;
  become(place, asNodes(content));
  if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true }); // it was moved
}

function become(place, next) {
  const keyed = new Map([...place.children].filter((c) => c.dataset.key).map((c) => [c.dataset.key, c]));
  next.forEach((node, i) => {
    const was = keyed.get(node.dataset?.key) ?? place.childNodes[i];
    const now = !was || was === node || !alike(was, node) ? node : was;
    if (now !== place.childNodes[i]) place.insertBefore(now, place.childNodes[i] ?? null);
    if (now === node) return;
    if (now.nodeType === Node.TEXT_NODE) {
      if (now.data !== node.data) now.data = node.data;
    } else if (!now.isEqualNode(node)) {
      for (const { name } of [...now.attributes]) if (!node.hasAttribute(name)) now.removeAttribute(name);
      for (const { name, value } of node.attributes) if (now.getAttribute(name) !== value) now.setAttribute(name, value);
      become(now, [...node.childNodes]);
    }
  });
  while (place.childNodes.length > next.length) place.lastChild.remove();
}

// alike says whether an element can become another one. One that listens can't, unless they are equal.
function alike(a, b) {
  if (a.nodeName !== b.nodeName || a.dataset?.key !== b.dataset?.key) return false;
  return a.isEqualNode(b) || !(listening.has(a) || listening.has(b));
}

// fill shows what a promise brings: a note while it waits, an error if it fails, which it also returns. Quietly, what is
// shown stays until there is something new.
export async function fill(place, what, load, signal, quietly = false) {
  if (!quietly) {
    if (!place.childElementCount || place.querySelector(".failure")) place.replaceChildren(loading(what));
    place.setAttribute("aria-busy", "true");
  }
  let failed = null;
  try {
    const content = await load();
    if (!signal.aborted) renew(place, content);
  } catch (error) {
    failed = error;
    if (!signal.aborted && !quietly) place.replaceChildren(failure(error, () => fill(place, what, load, signal)));
  }
  if (!signal.aborted) place.removeAttribute("aria-busy"); // else another call fills it
  return failed;
}
