"use strict";
// Panels as SVG, from the same description that is drawn on files. Values by pointer, or by arrow keys when focused.

const SIZES = {
  large: { width: 380, height: 240, left: 46, right: 8, top: 16, bottom: 36 },
  medium: { width: 290, height: 200, left: 42, right: 6, top: 16, bottom: 34 },
  small: { width: 180, height: 96, left: 4, right: 4, top: 4, bottom: 16 },
};
const ROW = 12;
const tip = document.getElementById("tip");

function make(name, attributes = {}, text = null) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== null) node.textContent = text;
  return node;
}

function number(value) {
  if (value === null || value === undefined) return "none";
  const size = Math.abs(value);
  return size !== 0 && (size < 0.001 || size >= 1e5) ? value.toExponential(2).replace(/\.?0*e/, "e") : String(+value.toPrecision(4));
}

function extent(panel, positive) {
  const values = panel.series.flatMap((s) => [...s.y, ...(s.low ?? []), ...(s.high ?? []), ...s.dots.map((d) => d[1])]);
  values.push(...panel.levels.map((level) => level[0]));
  const known = values.filter((v) => v !== null && (!positive || v > 0));
  if (!known.length) return [positive ? 0.1 : 0, 1];
  let [low, high] = [known.reduce((a, b) => Math.min(a, b)), known.reduce((a, b) => Math.max(a, b))];
  if (positive) return low === high ? [low / 2, high * 2] : [low / 1.1, high * 1.1];
  const room = (high - low) * 0.06 || Math.abs(high) * 0.05 || 1;
  return [low - room, high + room];
}

// Three ticks at least: two say where an axis ends, three how it runs.
function roundTicks(low, high, wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((m) => m * power >= raw);
  const ticks = [];
  for (let k = Math.ceil(low / step); k * step <= high * (1 + 1e-12); k++) ticks.push(+(k * step).toPrecision(12));
  return ticks.length < 3 && wanted < 20 ? roundTicks(low, high, wanted + 1) : ticks;
}

function logTicks(low, high) {
  for (const factors of [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7]]) {
    const ticks = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.log10(high); p++) {
      ticks.push(...factors.map((f) => +(f * 10 ** p).toPrecision(3)).filter((t) => t >= low && t <= high));
    }
    const each = Math.ceil(ticks.length / 8);
    if (ticks.length >= 3) return ticks.filter((_, i) => i % each === 0);
  }
  return roundTicks(low, high, 5);
}

// Where the word of each mark begins, and in which row above the panel: the lowest in which it meets no other.
function markPlaces(panel, size, at) {
  const ends = [];
  return panel.marks.map(([value, word]) => {
    const length = 6.2 * word.length + 4;
    const x = Math.min(at.x(value), size.width - length);
    const free = ends.findIndex((end) => end <= x);
    const row = free < 0 ? ends.length : free;
    if (word) ends[row] = x + length;
    return { x, row };
  });
}

function axes(panel, size) {
  const log = panel.y_log && panel.series.some((s) => s.y.some((v) => v > 0));
  const [low, high] = extent(panel, log);
  const xs = [...panel.series.flatMap((s) => s.x), ...panel.marks.map((m) => m[0]), ...(panel.x_ticks ?? []).map((t) => t[0])];
  let [first, last] = [xs.reduce((a, b) => Math.min(a, b), Infinity), xs.reduce((a, b) => Math.max(a, b), -Infinity)];
  const room = panel.x_ticks && !panel.y_hidden ? (last - first) * 0.08 || 1 : (last - first) * 0.02 || 1;
  [first, last] = [first - room, last + room];
  const [right, bottom] = [size.width - size.right, size.height - size.bottom];
  const of = log ? Math.log : (v) => v;
  return {
    log, low, high, first, last, right, bottom,
    x: (v) => size.left + ((v - first) / (last - first)) * (right - size.left),
    y: (v) => (log && v <= 0 ? bottom : bottom - ((of(v) - of(low)) / (of(high) - of(low))) * (bottom - size.top)),
  };
}

function path(xs, ys, at) {
  let [text, pen] = ["", "M"];
  ys.forEach((y, i) => {
    if (y === null) { pen = "M"; return; }
    text += `${pen}${at.x(xs[i]).toFixed(1)} ${at.y(y).toFixed(1)}`;
    pen = "L";
  });
  return text;
}

function outline(xs, low, high, at) {
  const there = xs.map((_, i) => i).filter((i) => low[i] !== null && high[i] !== null);
  const points = [...there.map((i) => [xs[i], high[i]]), ...there.reverse().map((i) => [xs[i], low[i]])];
  return points.map(([x, y]) => `${at.x(x).toFixed(1)},${at.y(y).toFixed(1)}`).join(" ");
}

function drawAxes(svg, panel, size, at) {
  const xTicks = panel.x_ticks ?? roundTicks(at.first, at.last, 6).map((v) => [v, number(v)]);
  const yTicks = panel.y_hidden ? [] : at.log ? logTicks(at.low, at.high) : roundTicks(at.low, at.high, 5);
  for (const value of yTicks) {
    svg.append(make("line", { class: "guide", x1: size.left, x2: at.right, y1: at.y(value), y2: at.y(value) }));
    svg.append(make("text", { x: size.left - 5, y: at.y(value) + 4, "text-anchor": "end" }, number(value)));
  }
  markPlaces(panel, size, at).forEach(({ x, row }, i) => {
    const [value, word] = panel.marks[i];
    svg.append(make("line", { class: "mark", x1: at.x(value), x2: at.x(value), y1: size.top, y2: at.bottom }));
    if (word) svg.append(make("text", { x, y: size.top - 4 - ROW * row }, word));
  });
  for (const [value, word] of panel.levels) {
    svg.append(make("line", { class: "level", x1: size.left, x2: at.right, y1: at.y(value), y2: at.y(value) }));
    svg.append(make("text", { x: at.right, y: at.y(value) - 3, "text-anchor": "end" }, word));
  }
  for (const [value, word] of xTicks) {
    svg.append(make("text", { x: at.x(value), y: at.bottom + 13, "text-anchor": "middle" }, word));
  }
  svg.append(make("line", { class: "axis", x1: size.left, x2: at.right, y1: at.bottom, y2: at.bottom }));
  const middle = (size.left + at.right) / 2;
  if (panel.x_label) svg.append(make("text", { x: middle, y: size.height - 4, "text-anchor": "middle" }, panel.x_label));
}

function drawSeries(svg, series, at) {
  const color = series.shade === null ? `color: var(--c${series.color % 9})`
    : `color: color-mix(in oklab, var(--last) ${Math.round(100 * series.shade)}%, var(--first))`;
  const group = svg.appendChild(make("g", { style: color }));
  if (series.area) {
    group.append(make("polygon", { class: "area", points: outline(series.x, series.y.map(() => 0), series.y, at) }));
    return;
  }
  if (series.low && series.high && !series.markers) {
    group.append(make("polygon", { class: "band", points: outline(series.x, series.low, series.high, at) }));
  }
  const dashed = series.color % 2 === 1 && series.shade === null ? " dashed" : "";
  group.append(make("path", { class: `line${dashed}`, d: path(series.x, series.y, at) }));
  if (!series.markers) return;
  for (const [x, y] of series.dots) group.append(make("circle", { class: "dot", cx: at.x(x), cy: at.y(y), r: 2.2 }));
  series.x.forEach((x, i) => {
    const place = { x1: at.x(x), x2: at.x(x), y1: at.y(series.low[i]), y2: at.y(series.high[i]) };
    group.append(make("line", { class: "bar", ...place }));
    group.append(make("circle", { class: "point", cx: at.x(x), cy: at.y(series.y[i]), r: 4 }));
  });
}

function drawPanel(panel, kind) {
  const size = { ...SIZES[kind] };
  const rows = Math.max(0, ...markPlaces(panel, size, axes(panel, size)).map((place) => place.row));
  size.top += ROW * rows;
  size.height += ROW * rows;
  const svg = make("svg", { viewBox: `0 0 ${size.width} ${size.height}`, tabindex: 0, role: "img" });
  svg.style.maxWidth = `${1.4 * size.width}px`;
  const what = [panel.title, panel.y_label].filter(Boolean).join(", ");
  svg.setAttribute("aria-label", `${what}: ${panel.series.map((s) => s.name).join(", ")}; arrow keys read the values`);
  const at = axes(panel, size);
  drawAxes(svg, panel, size, at);
  for (const series of panel.series) drawSeries(svg, series, at);
  readable(svg, panel, size, at);
  return svg;
}

function readable(svg, panel, size, at) {
  const stops = [...new Set(panel.series.flatMap((s) => s.x))].sort((a, b) => a - b);
  const cursor = make("line", { class: "cursor", y1: size.top, y2: at.bottom, visibility: "hidden" });
  svg.append(cursor);
  let place = -1;
  function show(index) {
    place = Math.max(0, Math.min(stops.length - 1, index));
    const x = stops[place];
    cursor.setAttribute("x1", at.x(x));
    cursor.setAttribute("x2", at.x(x));
    cursor.setAttribute("visibility", "visible");
    const box = svg.getBoundingClientRect();
    showTip(valuesAt(panel, x), box.left + (at.x(x) / size.width) * box.width, box.top);
  }
  function hide() {
    cursor.setAttribute("visibility", "hidden");
    tip.hidden = true;
  }
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * size.width;
    if (stops.length) show(stops.reduce((best, s, i) => (Math.abs(at.x(s) - x) < Math.abs(at.x(stops[best]) - x) ? i : best), 0));
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape") hide();
    if (!step || !stops.length) return;
    event.preventDefault();
    show(place < 0 && step < 0 ? stops.length - 1 : place + step);
  });
}

function valuesAt(panel, x) {
  const tick = (panel.x_ticks ?? []).find((t) => Math.abs(t[0] - x) < 1e-9);
  const lines = [`${panel.x_label || "at"} ${tick ? tick[1] : number(x)}`];
  for (const series of panel.series) {
    const i = series.x.findIndex((v) => Math.abs(v - x) < 1e-9);
    if (i < 0) continue;
    const spread = series.low && series.low[i] !== null ? ` [${number(series.low[i])}, ${number(series.high[i])}]` : "";
    lines.push(`${series.name}: ${number(series.area ? Math.abs(series.y[i]) : series.y[i])}${spread}`);
  }
  return lines.length > 14 ? [...lines.slice(0, 13), `and ${lines.length - 13} more under Values`].join("\n") : lines.join("\n");
}

function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const width = tip.offsetWidth;
  tip.style.left = `${Math.max(4, Math.min(window.innerWidth - width - 4, x - width / 2))}px`;
  tip.style.top = `${Math.max(4, y - tip.offsetHeight - 4)}px`;
}
