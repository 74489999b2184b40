// Stacked bars over time, drawn by uPlot, with a legend and the same numbers as a table.
import uPlot from "./uplot/uPlot.esm.js";
import { h, table } from "./dom.js";
import { count, decimal, dollars, dollarText, units } from "./format.js";

const MOST = 7; // colours; what is behind them is added up as "others"

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// stack sorts rows {slot, group, value} into series over the slots. Values are BigInt.
export function stack(slots, rows) {
  const sums = new Map();
  for (const r of rows) sums.set(r.group, (sums.get(r.group) ?? 0n) + r.value);
  const order = [...sums].sort((a, b) => (b[1] > a[1] ? 1 : b[1] < a[1] ? -1 : 0)).map(([group]) => group);
  const shown = order.length > MOST ? [...order.slice(0, MOST - 1), null] : order;
  const series = new Map(shown.map((group) => [group, slots.map(() => 0n)]));
  const index = new Map(slots.map((slot, i) => [slot, i]));
  for (const r of rows) {
    const i = index.get(r.slot);
    if (i !== undefined) (series.get(r.group) ?? series.get(null))[i] += r.value;
  }
  return [...series].map(([group, values]) => ({ name: group === null ? `${order.length - MOST + 1} others` : group || "(none)", values }));
}

export function chart(title, labels, series, isMoney, signal) {
  const show = (n) => (isMoney ? dollars(decimal(n)) : count(n));
  const plain = (n) => (isMoney ? dollarText(decimal(n)) : count(n));
  const place = h("div.plot", { role: "img", "aria-label": `${title}: bars; the numbers are in the table below` });
  const says = h("p.says-chart", { "aria-hidden": "true" });
  const totals = series.map((s) => s.values.reduce((a, b) => a + b, 0n));
  const legend = h("ul.legend", {}, series.map((s, i) =>
    h("li", {}, h(`span.key.series-${i}`, { "aria-hidden": "true" }), s.name, " ", h("span.number", {}, show(totals[i])))));
  const numbers = h("details", {}, h("summary", {}, "Show as table"));
  numbers.addEventListener("toggle", () => {
    if (numbers.open && numbers.childElementCount === 1) {
      numbers.append(table(title, [{ name: "When", cell: (i) => labels[i] },
        ...series.map((s) => ({ name: s.name, number: true, cell: (i) => show(s.values[i]) }))], labels.map((_, i) => i)));
    }
  });
  let plot;
  const draw = () => {
    plot?.destroy();
    plot = new uPlot(options(place.clientWidth, labels, series, isMoney, (i) => {
      says.textContent = i === null || i === undefined ? "" :
        `${labels[i]}: ${series.filter((s) => s.values[i] !== 0n).map((s) => `${s.name} ${plain(s.values[i])}`).join(" · ") || "nothing"}`;
    }), geometry(labels, series, isMoney), place);
  };
  const resize = new ResizeObserver(draw);
  resize.observe(place);
  addEventListener("themechange", draw, { signal });
  signal.addEventListener("abort", () => { resize.disconnect(); plot?.destroy(); });
  return h("figure.chart", {}, h("figcaption", {}, title), place, says, legend, numbers);
}

// geometry stacks positive and negative values away from zero. Here alone amounts become floats.
function geometry(labels, series, isMoney) {
  const unit = isMoney ? 1e12 : 1;
  const up = labels.map(() => 0), down = labels.map(() => 0);
  const layers = series.map((s) => s.values.map((v, i) => {
    if (v === 0n) return null;
    const side = v > 0n ? up : down;
    return (side[i] += Number(v) / unit);
  }));
  return [labels.map((_, i) => i), ...layers.reverse()]; // the tallest first: the others are painted over it
}

function options(width, labels, series, isMoney, hover) {
  const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
  const axis = { stroke: color("--dim"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  const bars = uPlot.paths.bars({ size: [0.75, 48] });
  return {
    width: Math.max(200, width), height: 240, legend: { show: false }, padding: [12, 8, 0, 0],
    cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
    scales: { x: { time: false, range: [-0.6, labels.length - 0.4] }, y: { range: (_, min, max) => (min === null ? [0, 1] : [Math.min(0, min * 1.08), Math.max(0, max * 1.08) || 1]) } },
    axes: [
      { ...axis, grid: { show: false }, size: 34, space: 80, incrs: [1, 2, 3, 4, 6, 7, 12, 14, 24, 28, 48, 72, 96, 168, 336], values: (_, at) => at.map((i) => labels[i]?.replace(/ \d{4}/, "") ?? "") },
      { ...axis, size: 62, values: (_, at) => at.map((v) => (isMoney ? "$" : "") + short.format(v)) },
    ],
    series: [{}, ...series.map((_, i) => ({ paths: bars, points: { show: false }, width: 0, fill: color(`--series-${i}`) })).reverse()],
    hooks: { setCursor: [(u) => hover(u.cursor.idx)] },
  };
}
