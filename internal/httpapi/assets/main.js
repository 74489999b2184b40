// The frame of the page: who is signed in, which view is shown, the theme.
import { call, on } from "./api.js";
import { documentURL, h, icon, id, failure, renew, visible } from "./dom.js";
import { ZONE } from "./format.js";
import * as live from "./live.js";
import { showPipeline } from "./pipeline.js";
import { showSpend } from "./spend.js";
import { showEntities, titleOfEntities, typeOf } from "./entities.js";
import { entityOf, showEntity, titleOfEntity } from "./entity.js";
import { listOf, showList, titleOfList } from "./list.js";
import { showTrouble } from "./trouble.js";
import { hold, lacks, may, whose } from "./rights.js";

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const signOut = document.getElementById("sign-out");
const theme = document.getElementById("theme");
const troubleCount = document.getElementById("trouble-count");
const liveSign = document.getElementById("live");
const foot = document.getElementById("foot");
let leave = new AbortController();
let session = { needed: false, signed_in: false };
let shown = {}; // the path of the view, and its function that shows another query
let title = "", mark = ""; // of the window

const VIEWS = [
  { path: /^\/?$/, title: "Pipeline", nav: "#/", show: showPipeline },
  { path: /^\/spend$/, title: "Spend", nav: "#/spend", show: showSpend },
  { path: /^\/entity\/(.+)$/, isOne: entityOf, title: titleOfEntity, nav: "#/spend", show: showEntity },
  { path: /^\/list\/(.+)$/, isOne: listOf, title: titleOfList, nav: "#/spend", show: showList },
  { path: /^\/entities\/(.+)$/, isOne: typeOf, title: titleOfEntities, nav: "#/spend", show: showEntities },
  { path: /^\/trouble$/, title: "Trouble", nav: "#/trouble", show: showTrouble },
];

// route shows the view that the address names. A view gets its place, the rest of its path, its query, a signal that
// tells when it is left, and what names the window; it may return a function that shows another query, so that the focus
// stays where it is.
function route(event) {
  if (location.hash && !location.hash.startsWith("#/")) return;
  if (session.needed && !session.signed_in) return showSignIn();
  if (!may("read")) return showNothing();
  const [path, search = ""] = location.hash.replace(/^#/, "").split("?");
  const query = new URLSearchParams(search);
  if (event && shown.path === path && shown.update) return shown.update(query);
  leaveView();
  const restOf = (v) => v.path.exec(path)[1];
  const view = VIEWS.find((v) => isReadable(path) && v.path.test(path) && (!v.isOne || v.isOne(restOf(v))));
  const rest = view && restOf(view);
  nav.hidden = false;
  for (const a of nav.querySelectorAll("a")) {
    if (a.getAttribute("href") === view?.nav) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  entitle(typeof view?.title === "function" ? view.title(rest) : view?.title ?? "Not found");
  const place = h("div");
  main.replaceChildren(place);
  if (event) { // another view, not the first one
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
  if (!view) return place.append(h("h1", {}, "There is no such view"), h("p", {}, h("a", { href: "#/" }, "To the pipeline")));
  shown = { path, update: view.show(place, rest, query, leave.signal, entitle) };
}

function leaveView() {
  leave.abort();
  leave = new AbortController();
  shown = {};
}

function isReadable(path) {
  try {
    decodeURIComponent(path);
    return true;
  } catch {
    return false;
  }
}

// entitle names the window, with a mark before it while something is wrong: a tab tells it, too.
function entitle(name = title) {
  title = name;
  document.title = `${mark}${visible(title)} · spendflush`;
}

function showSignIn() {
  leaveView();
  live.stop();
  nav.hidden = signOut.hidden = true;
  entitle("Sign in");
  const token = h("input", { id: "token", type: "password", autocomplete: "current-password", required: true, autofocus: true });
  const says = h("p.says", { role: "alert" });
  const form = h("form.sign-in", {}, h("h1", {}, "Sign in"),
    h("p", {}, "With a token of this instance that has the role read."),
    h("label", { for: "token" }, "Token"), token, h("button.main", { type: "submit" }, "Sign in"), says);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await call("/v1/session", { method: "POST", body: { token: token.value } });
      await begin();
      main.focus();
    } catch (error) {
      renew(says, error.message);
      token.select();
    }
  });
  main.replaceChildren(form);
  token.focus();
}

// showNothing tells whose token may not read that it is the wrong one here.
function showNothing() {
  leaveView();
  live.stop();
  nav.hidden = true;
  entitle("Nothing to show");
  main.replaceChildren(h("h1", {}, "This token may not read"), h("p", {}, lacks("read")),
    h("p", {}, "Sign out, and sign in with another token."));
}

let again;

async function begin() {
  try {
    session = await call("/v1/session");
  } catch (error) {
    renew(main, failure(error, begin), h("p.empty", {}, "Trying again by itself …"));
    clearTimeout(again);
    again = setTimeout(begin, 2000);
    return;
  }
  clearTimeout(again);
  begun();
}

function begun() {
  hold(session);
  signOut.hidden = !(session.needed && session.signed_in);
  if (may("read")) live.start();
  // Who may only read came for the spend, and not to watch the pipeline.
  if (!location.hash && may("read") && !may("operate")) history.replaceState(null, "", "#/spend");
  route();
}

on.signedOut = () => {
  if (!session.signed_in) return;
  session = { needed: true, signed_in: false };
  route();
};

// The token may have got other roles since. If not, what was refused says why.
on.refused = async () => {
  const now = await call("/v1/session").catch(() => null);
  if (!now || !hold(now)) return;
  session = now;
  begun();
};

signOut.addEventListener("click", async () => {
  try {
    await call("/v1/session", { method: "DELETE" });
    session = { needed: true, signed_in: false };
    route();
  } catch (error) {
    main.prepend(failure(error));
  }
});

const dark = matchMedia("(prefers-color-scheme: dark)");
const current = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");

function labelTheme() {
  theme.textContent = current() === "dark" ? "Light" : "Dark";
  theme.setAttribute("aria-label", `${theme.textContent} theme`);
}

function themeChanged() {
  labelTheme();
  dispatchEvent(new Event("themechange")); // charts take their colours from it
}

theme.addEventListener("click", () => {
  const next = current() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try { localStorage.setItem("spendflush-theme", next); } catch { /* it holds until the page is left */ }
  themeChanged();
});
dark.addEventListener("change", themeChanged);

live.watch((pipeline, connected) => {
  const open = pipeline ? pipeline.quarantined + pipeline.lost_batches : 0;
  troubleCount.hidden = !open;
  troubleCount.textContent = open;
  const said = !pipeline ? "" : connected ? "Live" : "Connection lost, trying again";
  if (liveSign.textContent.trim() !== said) {
    liveSign.replaceChildren(...(said ? [icon(connected ? "ok" : "warn"), ` ${said}`] : []));
  }
  main.classList.toggle("stale", Boolean(pipeline) && !connected);
  const now = !pipeline ? "" : !connected || pipeline.state === "bad" ? "✖ " : pipeline.state === "warn" ? "⚠ " : "";
  if (now !== mark) {
    mark = now;
    entitle();
  }
  const self = pipeline?.instances.find((i) => i.self);
  renew(foot, `Times are in ${ZONE}, the zone of this browser.`, self && h("span", {}, "Shown by ", id(self.instance), `, spendflush ${self.version}.`),
    whose() && h("span", {}, "Signed in as ", id(whose().name), `: ${whose().roles.join(", ")}.`),
    h("a", { href: documentURL("runbook"), rel: "noreferrer" }, "Runbook"), h("a", { href: documentURL(""), rel: "noreferrer" }, "Documents"));
});

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part after # is the view's
  main.focus();
});
labelTheme();
addEventListener("hashchange", route);
begin();
