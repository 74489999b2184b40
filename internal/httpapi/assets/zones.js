// The names of time zones that the API takes.
import { at } from "./api.js";

let names;

// zones are all of them. They are asked for once, unless that fails.
export function zones() {
  names ??= fetch(at("/assets/zones.txt")).then((answer) => {
    if (!answer.ok) throw new Error("The names of time zones can't be read.");
    return answer.text();
  }).then((text) => text.trim().split("\n"));
  names.catch(() => { names = undefined; });
  return names;
}

// zoneOf is the zone of a name, whatever its case and with blanks in place of underscores; undefined if there is none.
export async function zoneOf(name) {
  const wanted = name.trim().replaceAll(" ", "_").toLowerCase();
  return (await zones()).find((zone) => zone.toLowerCase() === wanted);
}
