"use strict";
// The figures of the report, the page of each run behind #run-<number>, and the choice of light or dark.

const data = JSON.parse(document.getElementById("data").textContent);

function element(name, text = null, attributes = {}) {
  const node = document.createElement(name);
  if (text !== null) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function tableOf(caption, headings, rows) {
  const table = element("table");
  table.append(element("caption", caption));
  const head = table.createTHead().insertRow();
  for (const heading of headings) head.append(element("th", heading, { scope: "col" }));
  const body = table.createTBody();
  for (const [first, ...rest] of rows) {
    const row = body.insertRow();
    row.append(element("th", first, { scope: "row" }), ...rest.map((cell) => element("td", cell)));
  }
  const scroll = element("div", null, { class: "scroll", tabindex: 0, role: "region", "aria-label": caption });
  scroll.append(table);
  return scroll;
}

function drawHeat(panel, range) {
  const { rows, columns, values, texts, label } = panel.heat;
  const left = 12 + 6.2 * Math.max(...rows.map((row) => row.length));
  const [cell, line] = [Math.max(24, Math.min(70, 300 / columns.length)), texts ? 32 : 16];
  const [width, height] = [left + cell * columns.length + 4, line * rows.length + 36];
  const name = `${panel.title}, ${label}: ${rows.length} rows, ${columns.length} columns; the values are below`;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name });
  svg.style.maxWidth = `${1.25 * width}px`;
  rows.forEach((row, i) => {
    svg.append(make("text", { x: left - 5, y: line * (i + 0.5) + 4, "text-anchor": "end" }, row));
    columns.forEach((column, j) => {
      const value = values[i][j];
      if (value === null) return;
      const share = range[1] > range[0] ? (value - range[0]) / (range[1] - range[0]) : 1;
      const color = `color-mix(in oklab, var(--heat-high) ${Math.round(100 * share)}%, var(--heat-low))`;
      const place = { x: left + cell * j, y: line * i, width: cell - 1, height: line - 1, style: `fill: ${color}` };
      const box = svg.appendChild(make("rect", place));
      box.append(make("title", {}, `${row}, ${panel.x_label} ${column}: ${number(value)}`));
      if (!texts) return;
      const ink = { x: left + cell * (j + 0.5), y: line * (i + 0.5) + 4, "text-anchor": "middle" };
      svg.append(make("text", { ...ink, style: `fill: ${share < 0.5 ? "#fff" : "#000"}; pointer-events: none` }, texts[i][j]));
    });
  });
  const under = line * rows.length + 14;
  columns.forEach((column, j) => {
    svg.append(make("text", { x: left + cell * (j + 0.5), y: under, "text-anchor": "middle" }, column));
  });
  svg.append(make("text", { x: left + (cell * columns.length) / 2, y: under + 17, "text-anchor": "middle" }, panel.x_label));
  return svg;
}

function drawForest(panel, range) {
  const { rows, means, lows, highs, dots, verdicts, texts, label } = panel.forest;
  const [scale, high] = [300, 26];
  const room = 0.05 * (range[1] - range[0]) || 1;
  const [first, last] = [range[0] - room, range[1] + room];
  const at = (v) => ((v - first) / (last - first)) * scale;
  const table = element("table", null, { class: "forest" });
  table.append(element("caption", `${panel.title}, ${label}`));
  const line = (height) => make("svg", { viewBox: `0 0 ${scale} ${height}`, width: scale, height, "aria-hidden": "true" });
  const put = (row, ...cells) => row.append(...cells.map((cell) => { const td = element("td"); td.append(cell); return td; }));
  const body = table.createTBody();
  rows.forEach((name, i) => {
    const svg = line(high);
    svg.append(make("line", { class: "level", x1: at(0), x2: at(0), y1: 0, y2: high }));
    const group = svg.appendChild(make("g", { class: verdicts[i] }));
    for (const value of dots[i]) group.append(make("circle", { class: "dot", cx: at(value), cy: high / 2, r: 2.6 }));
    if (lows[i] !== null) group.append(make("line", { class: "bar", x1: at(lows[i]), x2: at(highs[i]), y1: high / 2, y2: high / 2 }));
    group.append(make("rect", { class: "point", x: at(means[i]) - 3.5, y: high / 2 - 3.5, width: 7, height: 7 }));
    const row = body.insertRow();
    row.append(element("th", name, { scope: "row" }));
    put(row, svg, texts[i], verdicts[i]);
  });
  const under = line(18);
  for (const tick of roundTicks(range[0] - room / 2, range[1] + room / 2, 6)) {
    under.append(make("text", { x: at(tick), y: 12, "text-anchor": "middle" }, number(tick)));
  }
  put(body.insertRow(), "", under);
  const scroll = element("div", null, { class: "scroll", tabindex: 0, role: "region", "aria-label": `${panel.title}, ${label}` });
  scroll.append(table);
  return scroll;
}

function legend(figure) {
  const names = new Map();
  for (const series of figure.panels.flatMap((panel) => panel.series)) {
    if (series.shade === null && !names.has(series.name)) names.set(series.name, series);
  }
  const list = element("ul", null, { class: "legend" });
  for (const [name, { color, area }] of names.size > 1 ? names : []) {
    const item = element("li", null, { style: `color: var(--c${color % 9})` });
    item.append(element("span", null, color % 2 && !area ? { class: "dashed" } : {}), element("b", name));
    list.append(item);
  }
  return list;
}

function extremes(values) {
  const known = values.filter((value) => value !== null);
  return [known.reduce((a, b) => Math.min(a, b), Infinity), known.reduce((a, b) => Math.max(a, b), -Infinity)];
}

function drawFigure(place, figure) {
  const range = extremes(figure.panels.flatMap((panel) => panel.heat?.values.flat() ?? []));
  const gaps = figure.panels.flatMap(({ forest: f }) => (f ? [0, ...f.means, ...f.lows, ...f.highs, ...f.dots.flat()] : []));
  const list = legend(figure);
  if (list.children.length) place.before(list);
  for (const panel of figure.panels) {
    const box = place.appendChild(element("div"));
    if (panel.forest) {
      box.append(drawForest(panel, extremes(gaps)));
      continue;
    }
    const words = [panel.title, figure.small ? "" : panel.y_label || panel.heat?.label].filter(Boolean);
    box.append(element("p", words.join(", "), { class: "panel-title" }));
    const kind = figure.small ? "small" : place.matches(".by-1, .by-2") ? "large" : "medium";
    box.append(panel.heat ? drawHeat(panel, range) : drawPanel(panel, kind));
  }
}

function valuesOf(panel) {
  if (panel.heat) {
    const { rows, columns, values, label } = panel.heat;
    const lines = rows.map((row, i) => [row, ...values[i].map((v) => (v === null ? "" : number(v)))]);
    return tableOf(`${panel.title}, ${label}`, [panel.x_label, ...columns], lines);
  }
  if (panel.forest) {
    const { rows, texts, verdicts, dots, label } = panel.forest;
    const lines = rows.map((row, i) => [row, texts[i], verdicts[i], dots[i].map(number).join(", ")]);
    return tableOf(`${panel.title}, ${label}`, ["", "mean and 95 % interval", "verdict", "by seed"], lines);
  }
  const lines = panel.series.flatMap((series) => series.x.map((x, i) => {
    const tick = (panel.x_ticks ?? []).find((t) => Math.abs(t[0] - x) < 0.2 && !panel.y_hidden);
    const spread = series.low ? `${number(series.low[i])} to ${number(series.high[i])}` : "";
    return [series.name, tick ? tick[1] : number(x), number(series.area ? Math.abs(series.y[i]) : series.y[i]), spread];
  }));
  return tableOf(panel.title, ["", panel.x_label || "at", panel.y_label || "share of the highest cell", "spread"], lines);
}

function runCurves(run) {
  const { marks, values } = run.curves;
  const groups = [["accuracy (%)", ["train_accuracy", "val_accuracy", "test_accuracy"], 100, false],
    ["task loss", ["task_loss"], 1, true], ["penalty", ["penalty_weight", "penalty_act"], 1, true],
    ["learning rate", ["lr"], 1, true]];
  const panels = [];
  for (const [label, keys, factor, log] of groups) {
    const series = keys.filter((key) => values[key]).map((key, color) => ({
      name: key, color, shade: null, dots: [], low: null, high: null, area: false, markers: false,
      x: values[key].map((_, i) => i + 1), y: values[key].map((v) => (v === null ? null : factor * v)),
    }));
    if (series.length) panels.push({ title: "", series, x_label: "epoch", y_label: label, x_ticks: null, y_log: log, marks, levels: [], heat: null });
  }
  return panels;
}

function drawRun(main, run) {
  const others = Object.entries(data.others).map(([name, values]) => {
    const mine = run.config[data.keys[name]] ?? data.shared[data.keys[name]] ?? "";
    return [name, mine, values.filter((value) => value !== mine).join(", ")];
  });
  main.replaceChildren();
  const back = element("p");
  back.append(element("a", "Back to the report", { href: "#runs" }));
  main.append(back, element("h2", run.name));
  main.append(element("p", `${run.state}, sweep ${run.sweep}, seed ${run.seed ?? "unknown"}${run.cause ? `: ${run.cause}` : ""}`));
  for (const problem of run.problems) main.append(element("p", problem));
  if (run.collapse) main.append(element("p", `Collapsed in epoch ${run.collapse.epoch}.`));
  const numbers = Object.entries(run.numbers).map(([key, value]) => [key, key === "time_s" ? `${number(value)} s` : `${(100 * value).toFixed(2)} %`]);
  if (numbers.length) main.append(element("h3", "Result"), tableOf("As in result.json", ["", "value"], numbers));
  if (run.exports.files.length) {
    const list = element("ul");
    for (const file of run.exports.files) {
      const item = element("li");
      item.append(file.link ? element("a", file.name, { href: file.link }) : file.name, `, ${file.bytes.toLocaleString("en")} bytes`);
      list.append(item);
    }
    const costs = [["parameters at their bits, bytes", run.exports.bytes], ["bit operations for one image", run.exports.bit_operations]];
    const known = costs.filter(([, value]) => value !== null).map(([name, value]) => [name, value.toLocaleString("en")]);
    main.append(element("h3", "Exported"), list, tableOf("What the network costs", ["", "value"], known));
  }
  main.append(element("h3", "Difference from the others"));
  main.append(tableOf("What the runs differ in, less the seed", ["", "this run", "other runs"], others));
  if (run.command) {
    const copy = element("button", "Copy", { type: "button", class: "copy" });
    copy.addEventListener("click", () => navigator.clipboard.writeText(run.command).then(() => { copy.textContent = "Copied"; }));
    main.append(element("h3", "Command"), element("pre", run.command, { class: "command", tabindex: 0 }), copy);
  } else {
    main.append(element("h3", "Command"), element("p", "The sweep has no sweep.json that would know it; the configuration below holds every value."));
  }
  if (run.curves.values) {
    const place = element("div", null, { class: "panels by-2" });
    main.append(element("h3", "Curves"), place);
    for (const panel of runCurves(run)) {
      const part = element("div");
      const inner = element("div");
      part.append(element("p", panel.y_label, { class: "panel-title" }), inner);
      const list = legend({ panels: [panel] });
      if (list.children.length) inner.append(list);
      inner.append(drawPanel(panel, "large"));
      place.append(part);
    }
  }
  main.append(element("h3", "End of the log"), element("pre", run.log || "No log.", { tabindex: 0 }));
  const details = element("details");
  const all = Object.entries({ ...data.shared, ...run.config, ...run.about }).map(([key, value]) => [key, String(value)]);
  details.append(element("summary", "Configuration and origin"), tableOf("Every value, as resolved", ["key", "value"], all));
  main.append(details);
}

function route() {
  const match = /^#run-(\d+)$/.exec(location.hash);
  const run = match && data.runs[Number(match[1])];
  const [report, own] = [document.getElementById("report"), document.getElementById("run")];
  report.hidden = Boolean(run);
  own.hidden = !run;
  tip.hidden = true;
  if (run) {
    drawRun(own, run);
    window.scrollTo(0, 0);
    own.focus({ preventScroll: true });
  } else if (location.hash) {
    document.getElementById(location.hash.slice(1))?.scrollIntoView();
  }
}

for (const place of document.querySelectorAll("figure[data-figure]")) {
  const figure = data.figures[place.dataset.figure];
  drawFigure(place.querySelector(".panels"), figure);
  const details = place.querySelector("details");
  details.addEventListener("toggle", () => {
    if (details.children.length === 1) details.append(...figure.panels.map(valuesOf));
  });
}

const theme = document.getElementById("theme");
const isDark = () => (document.documentElement.style.colorScheme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
theme.addEventListener("click", () => {
  document.documentElement.style.colorScheme = isDark() ? "light" : "dark";
  nameTheme();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", nameTheme);
nameTheme();
window.addEventListener("hashchange", route);
route();
