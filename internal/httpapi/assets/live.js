// How the pipeline stands, once a second, for whoever wants to know. Three states: waiting for the first news, live, lost.
import { at, call } from "./api.js";

const SILENCE = 6000; // an instance that hangs keeps its connection and says nothing
const AGAIN = 2000;

const listeners = new Set();
let source, watchdog, retry, wanted = false;
export let last = null;
export let connected = false;

export function watch(listener, signal) {
  listeners.add(listener);
  signal?.addEventListener("abort", () => listeners.delete(listener));
  listener(last, connected);
}

function tell(isConnected) {
  connected = isConnected;
  for (const listener of [...listeners]) listener(last, connected);
}

function close() {
  clearTimeout(watchdog);
  clearTimeout(retry);
  source?.close();
  source = undefined;
}

function open() {
  close();
  if (!wanted || document.hidden) return; // hidden pages would use up the browser's few connections
  const mine = source = new EventSource(at("/v1/events"));
  // An instance ends streams now and then, and has only so many. It is lost if it doesn't answer otherwise either.
  const lost = async () => {
    if (mine !== source) return;
    close();
    retry = setTimeout(open, AGAIN);
    const answer = await call("/v1/pipeline", { signal: AbortSignal.timeout(AGAIN) }).catch(() => null);
    if (!wanted) return; // it was the session that ended
    last = answer ?? last;
    tell(answer !== null);
  };
  watchdog = setTimeout(lost, SILENCE);
  mine.addEventListener("pipeline", (event) => {
    clearTimeout(watchdog);
    watchdog = setTimeout(lost, SILENCE);
    last = JSON.parse(event.data);
    tell(true);
  });
  mine.addEventListener("error", lost);
}

export function start() { wanted = true; open(); }
export function stop() { wanted = false; close(); last = null; tell(false); }

document.addEventListener("visibilitychange", () => (document.hidden ? close() : wanted && open()));
