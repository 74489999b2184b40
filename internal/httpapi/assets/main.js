// The frame of the page: who is signed in, which view is shown, the theme.
import { call, on } from "./api.js";
import { h, icon, failure } from "./dom.js";
import * as live from "./live.js";
import { showPipeline } from "./pipeline.js";
import { showSpend } from "./spend.js";
import { showEntity } from "./entity.js";
import { showTrouble } from "./trouble.js";

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const signOut = document.getElementById("sign-out");
const theme = document.getElementById("theme");
const troubleCount = document.getElementById("trouble-count");
const liveSign = document.getElementById("live");
let leave = new AbortController();
let session = { needed: false, signed_in: false };

const VIEWS = [
  { path: /^\/?$/, title: "Pipeline", nav: "#/", show: showPipeline },
  { path: /^\/spend$/, title: "Spend", nav: "#/spend", show: showSpend },
  { path: /^\/entity\/(.+)$/, title: "Spend of one", nav: "#/spend", show: showEntity },
  { path: /^\/trouble$/, title: "Trouble", nav: "#/trouble", show: showTrouble },
];

// route shows the view that the address names. A view gets its place, the rest of its path, its query and a signal that
// tells when it is left.
function route(event) {
  const [path, query = ""] = location.hash.replace(/^#/, "").split("?");
  if (location.hash && !location.hash.startsWith("#/")) return;
  leave.abort();
  leave = new AbortController();
  if (session.needed && !session.signed_in) return showSignIn();
  const view = VIEWS.find((v) => v.path.test(path));
  nav.hidden = false;
  for (const a of nav.querySelectorAll("a")) {
    if (a.getAttribute("href") === view?.nav) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  document.title = `${view?.title ?? "Not found"} · spendflush`;
  const place = h("div");
  main.replaceChildren(place);
  if (event) { // another view, not the first one
    window.scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
  if (!view) return place.append(h("h1", {}, "There is no such view"), h("p", {}, h("a", { href: "#/" }, "To the pipeline")));
  view.show(place, view.path.exec(path)[1], new URLSearchParams(query), leave.signal);
}

function showSignIn() {
  live.stop();
  nav.hidden = signOut.hidden = true;
  document.title = "Sign in · spendflush";
  const token = h("input", { id: "token", type: "password", autocomplete: "current-password", required: true, autofocus: true });
  const says = h("p.says", { role: "alert" });
  const form = h("form.sign-in", {}, h("h1", {}, "Sign in"),
    h("p", {}, "With one of the tokens of this instance, as in SPENDFLUSH_TOKENS."),
    h("label", { for: "token" }, "Token"), token, h("button.main", { type: "submit" }, "Sign in"), says);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await call("/v1/session", { method: "POST", body: { token: token.value } });
      await begin();
      main.focus();
    } catch (error) {
      says.textContent = error.message;
      token.select();
    }
  });
  main.replaceChildren(form);
  token.focus();
}

async function begin() {
  try {
    session = await call("/v1/session");
  } catch (error) {
    return main.replaceChildren(failure(error, begin));
  }
  signOut.hidden = !(session.needed && session.signed_in);
  if (!session.needed || session.signed_in) live.start();
  route();
}

on.signedOut = () => {
  if (!session.signed_in) return;
  session = { needed: true, signed_in: false };
  route();
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
});

document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the part after # is the view's
  main.focus();
});
labelTheme();
addEventListener("hashchange", route);
begin();
