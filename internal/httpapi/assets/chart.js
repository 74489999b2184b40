// Stacked bars over time, drawn by uPlot, with a legend and the same numbers as a table.
import uPlot from "./uplot/uPlot.esm.js";
import { h, id, renew, table } from "./dom.js";
import { count, decimal, money, moneyText } from "./format.js";

const MOST = 7; // colours; what is behind them is added up as "others"

const FONT = "12px system-ui, sans-serif"; // of the axes
const LEFT = 62; // room for the labels of the amounts

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// stack sorts rows {slot, group, value} into series over the slots, the largest first. Values are BigInt. If the series are
// those that are shown already, they keep their order, and so their colours.
export function stack(slots, rows, shown = []) {
  const sums = new Map();
  for (const r of rows) sums.set(r.group, (sums.get(r.group) ?? 0n) + r.value);
  const order = [...sums].sort((a, b) => (b[1] > a[1] ? 1 : b[1] < a[1] ? -1 : 0)).map(([group]) => group);
  const rest = order.length > MOST ? order.splice(MOST - 1) : [];
  const name = (group) => group || "(none)";
  if (order.length === shown.length && order.every((group) => shown.includes(name(group)))) order.sort((a, b) => shown.indexOf(name(a)) - shown.indexOf(name(b)));
  const series = new Map(order.map((group) => [group, { name: name(group), values: slots.map(() => 0n) }]));
  const others = { name: `${rest.length} others`, others: true, values: slots.map(() => 0n) };
  const index = new Map(slots.map((slot, i) => [slot, i]));
  for (const r of rows) {
    const i = index.get(r.slot);
    if (i !== undefined) (series.get(r.group) ?? others).values[i] += r.value;
  }
  return rest.length ? [...series.values(), others] : [...series.values()];
}

const HINT = "Point at a bar to read its numbers.";

// chart makes an empty one. show fills it, as often as there is something new, and returns its element; names are those of
// the series under a title, if that is what is shown.
export function chart(signal) {
  const caption = h("figcaption"), place = h("div.plot", { role: "img" }), legend = h("ul.legend"), note = h("p.empty");
  const says = h("p.says-chart", { "aria-hidden": "true" }, HINT);
  const numbers = h("details", {}, h("summary", {}, "Show as table"), h("div"));
  const element = h("figure.chart", {}, caption, place, says, legend, note, numbers);
  let now = null, plot;
  const text = (n) => (now.isMoney ? moneyText(decimal(n)) : count(n));
  const hover = (i) => {
    const some = i === null || i === undefined ? [] : now.series.filter((s) => s.values[i]);
    renew(says, i === null || i === undefined ? HINT : [now.labels[i], ": ", some.length ? some.map((s, n) => [n > 0 && " · ", id(s.name), " ", text(s.values[i])]) : "nothing"]);
  };
  const draw = () => {
    plot?.destroy();
    plot = now && place.clientWidth ? new uPlot(options(place.clientWidth, now, hover), geometry(now), place) : undefined;
  };
  const tabulate = () => numbers.open && now && renew(numbers.lastElementChild, table(now.title, [{ name: "When", cell: (i) => now.labels[i] },
    ...now.series.map((s) => (now.isMoney ? { name: s.name, theirs: true, money: (i) => decimal(s.values[i]) } : { name: s.name, theirs: true, number: true, cell: (i) => count(s.values[i]) }))],
  now.labels.map((_, i) => i), { titled: true }));
  numbers.addEventListener("toggle", tabulate);
  const resize = new ResizeObserver(draw);
  resize.observe(place);
  addEventListener("themechange", draw, { signal });
  matchMedia("print").addEventListener("change", draw, { signal }); // paper has colours of its own
  signal.addEventListener("abort", () => { resize.disconnect(); plot?.destroy(); });

  function show(next) {
    const alike = plot && next.title === now.title && next.series.length === now.series.length && next.labels.length === now.labels.length;
    if (alike) Object.assign(now, next); // options hold it
    else now = next;
    renew(caption, next.title);
    place.setAttribute("aria-label", `${next.title}: bars; the numbers are in the table below`);
    note.textContent = next.note;
    note.hidden = !next.note;
    const total = (s) => decimal(s.values.reduce((a, b) => a + b, 0n));
    renew(legend, next.series.map((s, i) => h("li", {}, h(`span.key.series-${i}`, { "aria-hidden": "true" }), id(s.name), " ",
      h("span.number", {}, next.isMoney ? money(total(s)) : count(s.values.reduce((a, b) => a + b, 0n))))));
    tabulate();
    if (alike) plot.setData(geometry(now));
    else draw();
    hover(plot?.cursor.idx);
    return element;
  }
  return { show, names: (title) => (now?.title === title ? now.series.filter((s) => !s.others).map((s) => s.name) : []) };
}

// geometry stacks positive and negative values away from zero. Here alone amounts become floats.
function geometry({ labels, series, isMoney }) {
  const unit = isMoney ? 1e12 : 1;
  const up = labels.map(() => 0), down = labels.map(() => 0);
  const layers = series.map((s) => s.values.map((v, i) => {
    if (v === 0n) return null;
    const side = v > 0n ? up : down;
    return (side[i] += Number(v) / unit);
  }));
  return [labels.map((_, i) => i), ...layers.reverse()]; // the tallest first: the others are painted over it
}

function options(width, now, hover) {
  const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
  const axis = { stroke: color("--dim"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: FONT };
  const at = (i) => now.labels[i]?.replace(/^(\d+ \w+) \d{4}$/, "$1") ?? ""; // the year of a day is in what is pointed at
  const steps = at(0).includes(":") ? [1, 2, 3, 6, 12, 24, 48, 72, 168, 336] : /^\d/.test(at(0)) ? [1, 2, 3, 7, 14, 28, 56, 91, 182] : [1, 2, 3, 6, 12];
  const longest = now.labels.reduce((most, _, i) => Math.max(most, at(i).length), 0);
  const dollarSign = (v) => `${v < 0 ? "−" : ""}$${short.format(Math.abs(v))}`; // as in all amounts
  const bars = uPlot.paths.bars({ size: [0.75, 48] });
  return {
    width: Math.max(200, width), height: 240, legend: { show: false }, padding: [12, rightOf(width, now.labels.length, at), 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
    scales: { x: { time: false, range: () => [-0.6, now.labels.length - 0.4] }, y: { range: (_, min, max) => (min === null ? [0, 1] : [Math.min(0, min * 1.08), Math.max(0, max * 1.08) || 1]) } },
    axes: [
      { ...axis, grid: { show: false }, size: 28, space: 24 + 7 * longest, incrs: steps, values: (_, ticks) => ticks.map(at) },
      { ...axis, size: LEFT, values: (_, ticks) => ticks.map((v) => (now.isMoney ? dollarSign(v) : short.format(v))) },
    ],
    series: [{}, ...now.series.map((_, i) => ({ paths: bars, points: { show: false }, width: 0, fill: color(`--series-${i}`) })).reverse()],
    hooks: { setCursor: [(u) => hover(u.cursor.idx)] },
  };
}

// rightOf is how much room the chart leaves at its right, for the half of the last label that is behind the middle of the
// last bar.
function rightOf(width, bars, at) {
  const canvas = document.createElement("canvas").getContext("2d");
  canvas.font = FONT;
  const half = canvas.measureText(at(bars - 1)).width / 2;
  const behind = (0.6 * (Math.max(200, width) - LEFT - half)) / (bars + 0.2);
  return Math.ceil(Math.max(8, half - behind + 2));
}
