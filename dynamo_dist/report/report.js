"use strict";
// Draws the figures of the page from the numbers beside it. Every figure is described by a function that returns its traces, its layout
// and the table behind it; it is drawn when it comes into view, and again when the theme, a control or the selected network changes.

const shown = JSON.parse(document.getElementById("numbers").textContent);
const { networks, analyses } = shown;
const COUNT = networks.ids.length;
// Okabe and Ito's colours, told apart by most people who see colours differently; symbols repeat the distinction.
const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f", "#a6761d", "#b2182b"];
const SYMBOLS = ["circle", "square", "diamond", "cross", "triangle-up", "x", "triangle-down", "star"];
const SYMBOLS_3D = ["circle", "square", "diamond", "cross", "x", "circle-open", "square-open", "diamond-open"];
const MANY = 500; // points from which WebGL draws
const HUGE = 2000; // points from which it draws circles as long as there are colours, and no more pixels than the screen has: in software, moving a map of 10,000
// points with other symbols takes twice as long, and with the default, twice as many pixels each way, 3 to 4 times.
const LEVELS = 24; // values of a text column that have a colour of their own
const PAGE = 25; // rows of the table of networks at a time

// ---- elements -----------------------------------------------------------------------------------------------------------------

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function choice(label, options, chosen, change) {
  const list = element("select", { onchange: () => change(list.value) });
  list.append(...options.map((option) => element("option", { selected: option === chosen }, option)));
  return element("label", {}, label + " ", list);
}

function radios(label, options, chosen, change) {
  const name = `radio-${label}`;
  const buttons = Object.entries(options).map(([value, words]) =>
    element("label", {}, element("input", { type: "radio", name, value, checked: value === chosen, onchange: () => change(value) }), " " + words));
  return element("fieldset", {}, element("legend", {}, label), ...buttons);
}

function rows(header, lines) {
  const head = element("tr", {}, ...header.map((name) => element("th", { scope: "col" }, name)));
  const body = lines.map(([first, ...rest]) => element("tr", {}, element("th", { scope: "row" }, first), ...rest.map((value) => element("td", {}, value))));
  return element("div", { class: "scroll" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)));
}

const words = (name) => name.replaceAll("_", " ");

function format(value) {
  if (value == null) return "-";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return String(value);
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

// Text that Plotly shows as it is: it would read tags.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// ---- tables by column ---------------------------------------------------------------------------------------------------------

const unique = (values) => [...new Set(values)];
const places = (count, test) => Array.from({ length: count }, (_, place) => place).filter(test);

function take(table, chosen) {
  return Object.fromEntries(Object.entries(table).map(([name, values]) => [name, chosen.map((place) => values[place])]));
}

function where(table, conditions) {
  const first = Object.values(table)[0] ?? [];
  return take(table, places(first.length, (place) => Object.entries(conditions).every(([name, value]) => table[name][place] === value)));
}

function valueOf(name, place) {
  const column = networks.columns[name];
  if (!column) return networks.constant[name] ?? null;
  return column.levels ? column.levels[column.codes[place]] : column.values[place];
}

const valuesOf = (name) => networks.ids.map((_, place) => valueOf(name, place));
const placeOf = new Map(networks.ids.map((id, place) => [id, place]));

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
const deviation = (values) => { const centre = mean(values); return Math.sqrt(mean(values.map((value) => (value - centre) ** 2))); };
const distance = (a, b) => Math.sqrt(a.reduce((sum, value, d) => sum + (value - b[d]) ** 2, 0));
const meanVector = (chosen) => networks.theta[0].map((_, d) => mean(chosen.map((place) => networks.theta[place][d])));

// ---- downloads ----------------------------------------------------------------------------------------------------------------

function csv(table) {
  const cell = (value) => {
    const text = value == null ? "" : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const columns = Object.values(table);
  const lines = (columns[0] ?? []).map((_, place) => columns.map((column) => cell(column[place])).join(","));
  return [Object.keys(table).map(cell).join(","), ...lines].join("\r\n") + "\r\n";
}

function save(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  element("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

// ---- figures ------------------------------------------------------------------------------------------------------------------

// The colours of the style sheet as the browser resolves them for the theme.
function colours() {
  const probe = document.body.appendChild(element("span"));
  const found = {};
  for (const name of ["ink", "soft", "line", "paper", "raised", "accent"]) {
    probe.style.color = `var(--${name})`;
    found[name] = getComputedStyle(probe).color;
  }
  probe.remove();
  return found;
}

let theme = colours();
const figures = new Map();

const axis = (title, more = {}) => ({ title: { text: title }, gridcolor: theme.line, zeroline: false, linecolor: theme.line, automargin: true, ...more });

function layoutOf(own) {
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: theme.ink, family: "system-ui, sans-serif", size: 12 },
    margin: { l: 50, r: 15, t: 25, b: 45 }, hovermode: "closest", dragmode: "pan",
    hoverlabel: { bgcolor: theme.raised, bordercolor: theme.line, font: { color: theme.ink }, align: "left" },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", itemsizing: "constant" }, ...own,
  };
}

// A figure of the page, where it has one: its controls, its plot and its downloads. `describe` returns {traces, layout, table}.
function figure(name, describe, controls = []) {
  const place = document.querySelector(`figure[data-figure="${name}"]`);
  if (!place) return null;
  const caption = place.querySelector("figcaption");
  const plot = element("div", { class: "plot", role: "img", "aria-label": caption.textContent });
  const made = { name, place, plot, ready: false, visible: false, onready: () => {} };
  made.draw = () => {
    if (!made.visible) return;
    const { traces, layout } = describe();
    Plotly.react(plot, traces, layoutOf(layout), { responsive: true, displaylogo: false, displayModeBar: false, plotGlPixelRatio: COUNT > HUGE ? devicePixelRatio : 2 });
    if (!made.ready) { made.ready = true; made.onready(); }
  };
  const picture = (format) => Plotly.downloadImage(plot, { format, filename: name, width: plot.clientWidth, height: plot.clientHeight, scale: 2 });
  place.prepend(element("div", { class: "controls" }, ...controls), plot);
  place.append(element("div", { class: "downloads" },
    element("button", { type: "button", "data-download": "csv", onclick: () => save(`${name}.csv`, csv(describe().table)) }, "CSV"),
    element("button", { type: "button", onclick: () => picture("svg") }, "SVG"),
    element("button", { type: "button", onclick: () => picture("png") }, "PNG")));
  figures.set(name, made);
  watcher.observe(place);
  return made;
}

function reveal(made) {
  if (made.visible) return;
  made.visible = true;
  made.draw();
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting)) {
    watcher.unobserve(entry.target);
    reveal(figures.get(entry.target.dataset.figure));
  }
}, { rootMargin: "300px" });

const redraw = (...names) => names.forEach((name) => figures.get(name)?.draw());

// A trace per distinct label, so that the legend and the symbols say it too.
function byLabel(labels, x, y, more = {}) {
  return unique(labels).map((label, number) => {
    const own = places(labels.length, (place) => labels[place] === label);
    return {
      type: "scatter", mode: "markers", name: plain(label), x: own.map((place) => x[place]), y: own.map((place) => y[place]),
      marker: { size: 8, color: PALETTE[number % PALETTE.length], symbol: SYMBOLS[number % SYMBOLS.length] },
      ...Object.fromEntries(Object.entries(more).map(([key, values]) => [key, own.map((place) => values[place])])),
      hovertemplate: "%{text}<extra></extra>",
    };
  });
}

// ---- the map ------------------------------------------------------------------------------------------------------------------

const textColumns = Object.keys(networks.columns).filter((name) => networks.columns[name].levels);
const state = {
  colour: ["computation", "group"].find((name) => networks.columns[name]) ?? Object.keys(networks.columns)[0],
  dimensions: "2", drag: "pan", selected: 0, groups: { A: [], B: [] },
  marks: 0, // boxes drawn so far: the outline of the last one goes when the map is drawn again
};

const HOVER = ["group", "score", "accuracy", "r2", "hidden_r2", "agreement"];

function hover(place) {
  const facts = unique([state.colour, ...HOVER]).filter((name) => networks.columns[name]).map((name) => `${words(name)}: ${plain(format(valueOf(name, place)))}`);
  return [`<b>${plain(networks.ids[place])}</b>`, ...facts].join("<br>");
}

function describeMap() {
  const flat = state.dimensions === "2";
  const type = flat ? (COUNT > MANY ? "scattergl" : "scatter") : "scatter3d";
  const size = (flat ? 9 : 4) - (COUNT > HUGE ? 3 * (flat ? 1 : 0.5) : 0);
  const trace = (own, more) => ({
    type, mode: "markers", x: own.map((place) => networks.components[place][0]), y: own.map((place) => networks.components[place][1]),
    ...(flat ? {} : { z: own.map((place) => networks.components[place][2]) }), customdata: own, text: own.map(hover),
    hovertemplate: "%{text}<extra></extra>", ...(flat ? { selected: { marker: { opacity: 0.85 } }, unselected: { marker: { opacity: 0.85 } } } : {}), ...more,
  });
  const every = places(COUNT, () => true);
  const column = networks.columns[state.colour];
  let traces;
  if (column?.levels) {
    const level = (place) => Math.min(column.codes[place], LEVELS);
    const symbols = flat ? SYMBOLS : SYMBOLS_3D;
    const symbol = (code) => symbols[(COUNT > HUGE ? Math.floor(code / PALETTE.length) : code) % symbols.length];
    traces = unique(every.map(level)).sort((a, b) => a - b).map((code) => trace(every.filter((place) => level(place) === code), {
      name: plain(code === LEVELS ? "others" : column.levels[code] || "none"),
      marker: { size, opacity: 0.85, color: code === LEVELS ? "#999999" : PALETTE[code % PALETTE.length], symbol: symbol(code) },
    }));
  } else {
    const bar = { title: { text: words(state.colour), side: "right" }, thickness: 12, outlinewidth: 0 };
    const color = column ? column.values.map((value) => value ?? NaN) : theme.accent;
    traces = [trace(every, { name: "", showlegend: false, marker: { size, opacity: 0.85, color, colorscale: "Viridis", showscale: Boolean(column), colorbar: bar } })];
  }
  const ring = (own, name, color, wide) => own.length && traces.push(trace(own, {
    name, hoverinfo: "skip", hovertemplate: null, text: null,
    marker: { size: size + wide, color, opacity: 1, symbol: "circle-open", line: { width: 2 } },
  }));
  ring(state.groups.A, "A", "#0072b2", 5);
  ring(state.groups.B, "B", "#d55e00", 8);
  ring([state.selected], "selected", theme.ink, 10);
  const title = (k) => `component ${k + 1} (${Math.round(100 * networks.shares[k])} % of variance)`;
  const titles = [0, 1, 2].map(title);
  const layout = flat
    ? { xaxis: axis(titles[0]), yaxis: axis(titles[1]), dragmode: state.drag === "pan" ? "pan" : "select", uirevision: "map", selectionrevision: state.marks }
    : { scene: Object.fromEntries(["xaxis", "yaxis", "zaxis"].map((name, k) => [name, { title: { text: titles[k] }, color: theme.soft, gridcolor: theme.line, backgroundcolor: "rgba(0,0,0,0)" }])), dragmode: "orbit", margin: { l: 0, r: 0, t: 0, b: 0 }, uirevision: "map" };
  const chosen = { ...Object.fromEntries(networks.theta[0].map((_, d) => [`theta_${d + 1}`, networks.theta.map((theta) => theta[d])])) };
  const table = { id: networks.ids, component_1: networks.components.map((c) => c[0]), component_2: networks.components.map((c) => c[1]), component_3: networks.components.map((c) => c[2]), ...chosen, [state.colour]: valuesOf(state.colour) };
  return { traces, layout, table };
}

function zoom(factor) {
  const { plot } = figures.get("map");
  if (state.dimensions === "3") {
    const { x, y, z } = plot._fullLayout.scene.camera.eye;
    Plotly.relayout(plot, { "scene.camera.eye": { x: x * factor, y: y * factor, z: z * factor } });
    return;
  }
  const range = (axis) => { const [low, high] = plot._fullLayout[axis].range, middle = (low + high) / 2; return [middle + (low - middle) * factor, middle + (high - middle) * factor]; };
  Plotly.relayout(plot, { "xaxis.range": range("xaxis"), "yaxis.range": range("yaxis") });
}

function reset() {
  const { plot } = figures.get("map");
  Plotly.relayout(plot, state.dimensions === "3" ? { "scene.camera.eye": { x: 1.25, y: 1.25, z: 1.25 } } : { "xaxis.autorange": true, "yaxis.autorange": true });
}

// Arrow keys on the map go to the nearest network in their direction.
function step(event) {
  const direction = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
  if (!direction || state.dimensions === "3") return;
  event.preventDefault();
  const here = networks.components[state.selected];
  let best = null, least = Infinity;
  networks.components.forEach((there, place) => {
    const [dx, dy] = [there[0] - here[0], there[1] - here[1]];
    const along = dx * direction[0] + dy * direction[1], aside = Math.abs(dx * direction[1]) + Math.abs(dy * direction[0]);
    const cost = along > 0 && aside <= along ? along + 2 * aside : Infinity;
    if (cost < least) [best, least] = [place, cost];
  });
  if (best !== null) select(best);
}

function select(place) {
  state.selected = place;
  redraw("map", "points", "memory", "curves");
  describeNetwork();
}

function makeMap() {
  const change = (name) => (value) => { state[name] = value; redraw("map"); };
  const button = (label, title, click) => element("button", { type: "button", title, "aria-label": title, onclick: click }, label);
  const made = figure("map", describeMap, [
    choice("Colour", Object.keys(networks.columns), state.colour, change("colour")),
    radios("Axes", { 2: "2-D", 3: "3-D" }, state.dimensions, change("dimensions")),
    radios("Drag to", { pan: "move", A: "mark A", B: "mark B" }, state.drag, change("drag")),
    element("span", {}, button("+", "Zoom in", () => zoom(0.7)), " ", button("\u2212", "Zoom out", () => zoom(1 / 0.7)), " ", button("Reset", "Show all networks", reset)),
  ]);
  if (!made) return;
  made.plot.tabIndex = 0;
  made.plot.addEventListener("keydown", step);
  made.onready = () => {
    made.plot.on("plotly_click", ({ points }) => select(points[0].customdata));
    made.plot.on("plotly_selected", (event) => {
      if (!event?.range || state.drag === "pan") return; // without a range it is the outline that went, as the map was drawn again
      state.groups[state.drag] = unique(event.points.map((point) => point.customdata));
      state.marks += 1;
      redraw("map");
      compare();
    });
  };
}

// ---- the selected network -----------------------------------------------------------------------------------------------------

function describeNetwork() {
  const aside = document.getElementById("network");
  if (!aside) return;
  const place = state.selected, theta = networks.theta[place];
  const score = (name, label, control) => valueOf(name, place) == null ? [] : [[label, format(valueOf(name, place)), valueOf(control, place) == null ? "" : format(valueOf(control, place))]];
  const scores = [
    ...score("score", "score, own", ""), ...score("meta_score", "score, emulated", ""), ...score("hidden_r2", "hidden R\u00b2", "control_hidden_r2"),
    ...score("agreement", "agreement", "control_agreement"), ...score("disputed_agreement", "on disputed inputs", "control_disputed_agreement"),
  ];
  const said = new Set(["score", "meta_score", "hidden_r2", "agreement", "disputed_agreement", "control_hidden_r2", "control_agreement", "control_disputed_agreement"]);
  const facts = Object.keys(networks.columns).filter((name) => !said.has(name)).map((name) => [words(name), format(valueOf(name, place))]);
  const near = places(COUNT, (other) => other !== place).map((other) => [distance(theta, networks.theta[other]), other]).sort((a, b) => a[0] - b[0]).slice(0, 4);
  const points = analyses["fixed-points"]?.points;
  const found = points ? ["meta", "base"].map((which) => {
    const own = where(points, { id: networks.ids[place], which, input: "zero" });
    const count = (stable) => own.kind.filter((kind, k) => kind === "fixed" && own.stable[k] === stable).length;
    return own.id.length ? [which === "meta" ? "meta-model at theta" : "network", count(true), count(false)] : null;
  }).filter(Boolean) : [];
  aside.replaceChildren(
    element("h3", {}, networks.ids[place]),
    ...(scores.length ? [rows(["on test inputs", "at theta", "control"], scores)] : []),
    ...(found.length ? [rows(["fixed points at zero input", "stable", "unstable"], found), element("p", { class: "note" }, element("a", { href: "#points" }, "Their portrait and trajectories"))] : []),
    rows(["", ""], facts),
    element("p", {}, "theta: ", theta.map(format).join(", ")),
    element("p", {}, "Nearest in theta:"),
    element("ul", {}, ...near.map(([far, other]) => element("li", {}, element("button", { type: "button", class: "link", onclick: () => select(other) }, networks.ids[other]), ` ${format(far)}`))),
  );
}

// ---- two groups ---------------------------------------------------------------------------------------------------------------

// The group that these networks are all of, as the run names it.
function wholeGroup(chosen) {
  const names = unique(chosen.map((place) => valueOf("group", place)));
  return names.length === 1 && names[0] != null && valuesOf("group").filter((name) => name === names[0]).length === chosen.length ? names[0] : null;
}

function measured(label, score) {
  return [label, score == null ? "not measured: it is for whole groups and pairs of them" : format(score)];
}

function compare() {
  const place = document.getElementById("compare");
  if (!place) return;
  const { A, B } = state.groups;
  const options = textColumns.filter((name) => networks.columns[name].levels.length <= 60).flatMap((name) => networks.columns[name].levels.map((level) => [name, level]));
  const chooser = (which) => {
    const list = element("select", { "data-group": which, onchange: () => {
      const option = options[list.value];
      state.groups[which] = option ? places(COUNT, (one) => valueOf(option[0], one) === option[1]) : [];
      redraw("map");
      compare();
      document.querySelector(`[data-group="${which}"]`).focus();
    } });
    const count = state.groups[which].length;
    list.append(element("option", { value: "" }, count ? `${count} networks` : "none"), ...options.map(([name, level], number) => element("option", { value: number }, `${words(name)}: ${level}`)));
    return element("label", {}, `${which}: `, list);
  };
  const parts = [element("h3", {}, "Two groups"), element("div", { class: "controls" }, chooser("A"), chooser("B"))];
  if (!A.length || !B.length) {
    parts.push(element("p", { class: "note" }, "Drag a box on the map to mark A and B, or choose them here, to see what distinguishes them."));
  } else {
    const [thetaA, thetaB] = [meanVector(A), meanVector(B)];
    const within = (chosen, centre) => mean(chosen.map((one) => distance(networks.theta[one], centre)));
    const [nameA, nameB] = [wholeGroup(A), wholeGroup(B)], averaging = shown.result.averaging ?? { within: {}, across: {} };
    const both = nameA && nameB && (averaging.across[`${nameA} + ${nameB}`] ?? averaging.across[`${nameB} + ${nameA}`]);
    parts.push(rows(["", ""], [
      ["networks in A and B", `${A.length}, ${B.length}`],
      ["distance of the mean vectors", format(distance(thetaA, thetaB))],
      ["mean distance from the own mean vector", `${format(within(A, thetaA))}, ${format(within(B, thetaB))}`],
      measured("accuracy at the mean vector of A", nameA && averaging.within[nameA]),
      measured("accuracy at the mean vector of B", nameB && averaging.within[nameB]),
      measured("accuracy at the mean of both mean vectors", both),
    ]), rows(["what differs, most first", "A", "B"], differences(A, B)));
  }
  place.replaceChildren(...parts);
}

function differences(A, B) {
  const found = [];
  for (const [name, column] of Object.entries(networks.columns)) {
    if (column.levels) {
      const share = (chosen) => column.levels.map((_, code) => chosen.filter((place) => column.codes[place] === code).length / chosen.length);
      const [a, b] = [share(A), share(B)];
      const apart = a.reduce((sum, value, code) => sum + Math.abs(value - b[code]), 0) / 2;
      const said = (shares) => shares.map((value, code) => [value, code]).filter(([value]) => value > 0).sort((x, y) => y[0] - x[0]).slice(0, 3).map(([value, code]) => `${column.levels[code] || "none"} ${Math.round(100 * value)} %`).join(", ");
      if (apart > 0) found.push([2 * apart, words(name), said(a), said(b)]);
    } else {
      const [a, b] = [A, B].map((chosen) => chosen.map((place) => column.values[place]).filter((value) => value != null));
      if (!a.length || !b.length || mean(a) === mean(b)) continue;
      const pooled = Math.sqrt((deviation(a) ** 2 + deviation(b) ** 2) / 2);
      const said = (values) => `${format(mean(values))} \u00b1 ${format(deviation(values))}`;
      found.push([Math.abs(mean(a) - mean(b)) / (pooled || Number.MIN_VALUE), words(name), said(a), said(b)]);
    }
  }
  return found.sort((x, y) => y[0] - x[0]).slice(0, 15).map(([, ...line]) => line);
}

// ---- the table of all networks ------------------------------------------------------------------------------------------------

function makeTable() {
  const place = document.getElementById("all");
  const columns = Object.keys(networks.columns);
  let order = places(COUNT, () => true), found = order, page = 0, sorted = [null, 1];
  const body = element("div");
  const search = element("input", { type: "search", placeholder: "Find in the table", "aria-label": "Find in the table", oninput: () => { filter(); show(); } });
  const line = (one) => [networks.ids[one], ...columns.map((name) => valueOf(name, one))];
  const filter = () => {
    const wanted = search.value.toLowerCase();
    found = wanted ? order.filter((one) => line(one).some((value) => String(value).toLowerCase().includes(wanted))) : order;
    page = 0;
  };
  const sort = (name) => {
    const value = (one) => name === "id" ? networks.ids[one] : valueOf(name, one);
    sorted = [name, sorted[0] === name ? -sorted[1] : 1];
    order = [...order].sort((a, b) => { const [x, y] = [value(a), value(b)]; return sorted[1] * (x == null ? 1 : y == null ? -1 : x < y ? -1 : x > y ? 1 : 0); });
    filter();
    show();
    body.querySelector(`[data-sort="${name}"]`).focus();
  };
  const show = () => {
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    const header = ["id", ...columns].map((name) => element("button", { type: "button", class: "link", "data-sort": name, title: "Sort", onclick: () => sort(name) }, words(name) + (sorted[0] === name ? (sorted[1] > 0 ? " \u2191" : " \u2193") : "")));
    const choose = (one) => networks.theta ? element("button", { type: "button", class: "link", onclick: () => select(one) }, networks.ids[one]) : networks.ids[one];
    const lines = found.slice(page * PAGE, (page + 1) * PAGE).map((one) => [choose(one), ...columns.map((name) => format(valueOf(name, one)))]);
    const turn = (by) => () => { page = Math.min(pages - 1, Math.max(0, page + by)); show(); };
    body.replaceChildren(rows(header, lines), element("div", { class: "controls" },
      element("button", { type: "button", onclick: turn(-1) }, "Previous"), `${page + 1} of ${pages}`, element("button", { type: "button", onclick: turn(1) }, "Next")));
  };
  const table = () => ({ id: networks.ids, ...Object.fromEntries(columns.map((name) => [name, valuesOf(name)])) });
  const common = Object.entries(networks.constant).map(([name, value]) => `${words(name)} ${format(value)}`).join(", ");
  place.append(element("div", { class: "controls" }, search, element("button", { type: "button", onclick: () => save("networks.csv", csv(table())) }, "CSV")),
    ...(common ? [element("p", { class: "note" }, `The same for all: ${common}.`)] : []), body);
  place.parentElement.addEventListener("toggle", show, { once: true });
}

// ---- the other figures --------------------------------------------------------------------------------------------------------

function makeDisputed() {
  const label = valuesOf("computation").map((name) => name ?? "");
  const [x, y] = [valuesOf("control_disputed_agreement"), valuesOf("disputed_agreement")];
  figure("disputed", () => ({
    traces: [{ type: "scatter", mode: "lines", x: [0, 1], y: [0, 1], line: { color: theme.soft, width: 1 }, hoverinfo: "skip", showlegend: false },
      ...byLabel(label, x, y, { text: networks.ids.map(plain) }).map((trace) => ({ ...trace, type: COUNT > MANY ? "scattergl" : "scatter" }))],
    layout: { xaxis: axis("control without theta", { range: [0, 1.02] }), yaxis: axis("meta-model at theta", { range: [0, 1.02] }) },
    table: { id: networks.ids, control_disputed_agreement: x, disputed_agreement: y },
  }));
}

function makeSimilarity() {
  if (!analyses.similarity?.coordinates) return;
  const every = analyses.similarity.coordinates, measures = unique(every.measure);
  let measure = measures[0];
  figure("similarity", () => {
    // Of measures that depend on the meta-model the first one; of those that split the networks into sets the first set.
    const own = take(every, places(every.id.length, (k) => every.measure[k] === measure && !every.meta[k] && every.set[k] === 0));
    return {
      traces: byLabel(own.computation, own.x, own.y, { text: own.id.map(plain) }),
      layout: { xaxis: axis(""), yaxis: axis("", { scaleanchor: "x" }) }, table: own,
    };
  }, [choice("Measure", measures, measure, (value) => { measure = value; redraw("similarity"); })]);
}

function makeAveraging() {
  if (!analyses.averaging) return;
  const every = analyses.averaging.averaging, names = unique(every.name);
  let name = names[0];
  figure("averaging", () => {
    const own = where(every, { name });
    return {
      traces: unique(own.method).map((method, number) => {
        const found = where(own, { method });
        return { type: "scatter", mode: "markers", name: words(method), x: found.score, y: found.method.map(words), text: found.of.map(plain), hovertemplate: "%{x:.4f} %{text}<extra></extra>", marker: { size: 8, opacity: 0.7, color: PALETTE[number % PALETTE.length] }, showlegend: false };
      }),
      layout: { xaxis: axis("test score"), yaxis: axis("", { autorange: "reversed" }) }, table: own,
    };
  }, [choice("Group or pair", names, name, (value) => { name = value; redraw("averaging"); })]);
}

function makeLandscape() {
  const { landscape: grid, landscape_networks: points } = analyses.landscape ?? {};
  if (!grid) return;
  const tasks = unique(grid.task ?? [""]);
  let task = tasks[0];
  const ofTask = (table) => (table.task ? where(table, { task }) : table);
  figure("landscape", () => {
    const own = ofTask(grid), circles = ofTask(points), [u, v] = [unique(own.u), unique(own.v)];
    const at = own.best.indexOf(true);
    const z = v.map((_, row) => u.map((_, column) => own.test[column * v.length + row]));
    const mark = (name, x, y, text, marker) => ({ type: "scatter", mode: "markers", name, x, y, text, hovertemplate: "%{text}<extra></extra>", marker });
    return {
      traces: [
        { type: "heatmap", x: u, y: v, z, colorscale: "Viridis", colorbar: { title: { text: "test score", side: "right" }, thickness: 12, outlinewidth: 0 }, hovertemplate: "score %{z:.4f}<extra></extra>" },
        mark("networks", circles.u, circles.v, circles.id.map((id, k) => `<b>${plain(id)}</b><br>own score ${format(circles.base[k])}<br>at theta ${format(circles.meta[k])}<br>in this plane ${format(circles.projected[k])}`), { size: 8, color: "rgba(255,255,255,0.25)", line: { color: "#ffffff", width: 1.5 } }),
        mark("mean vector", [0], [0], ["mean vector"], { size: 13, symbol: "cross-thin", line: { color: "#ffffff", width: 2.5 } }),
        mark("best by labelled examples", [own.u[at]], [own.v[at]], [`best by labelled examples<br>test score ${format(own.test[at])}`], { size: 15, symbol: "star", color: "#ffffff", line: { color: "#000000", width: 1 } }),
      ],
      layout: { xaxis: axis("direction 1"), yaxis: axis("direction 2"), legend: { orientation: "h", y: 1.02, yanchor: "bottom", bgcolor: "#5a5f66", font: { color: "#ffffff" } } },
      table: own,
    };
  }, tasks.length > 1 ? [choice("Task", tasks, task, (value) => { task = value; redraw("landscape"); })] : []);
}

function makeSemisupervised() {
  if (!analyses.semisupervised) return;
  const every = analyses.semisupervised.semisupervised, tasks = unique(every.task ?? [""]);
  let task = tasks[0];
  figure("semisupervised", () => {
    const own = every.task ? where(every, { task }) : every;
    const traces = unique(own.method).map((method, number) => {
      const found = where(own, { method });
      const counts = unique(found.labels).sort((a, b) => a - b);
      const scores = counts.map((count) => where(found, { labels: count }).score.filter((score) => score != null));
      const color = PALETTE[number % PALETTE.length];
      return { type: "scatter", mode: "lines+markers", name: words(method), x: counts, y: scores.map((s) => (s.length ? mean(s) : null)), error_y: { type: "data", array: scores.map((s) => (s.length ? deviation(s) : 0)), thickness: 1 }, line: { color, width: 1.5 }, marker: { color, symbol: SYMBOLS[number % SYMBOLS.length] } };
    });
    return { traces, layout: { xaxis: axis("labels", { type: "log" }), yaxis: axis("test score") }, table: own };
  }, tasks.length > 1 ? [choice("Task", tasks, task, (value) => { task = value; redraw("semisupervised"); })] : []);
}

// Stable, unstable and slow points as three traces.
function portrait(own, more) {
  const kinds = [
    ["stable", (k) => own.kind[k] === "fixed" && own.stable[k], { size: 11, color: PALETTE[0] }],
    ["unstable", (k) => own.kind[k] === "fixed" && !own.stable[k], { size: 11, color: PALETTE[1], symbol: "circle-open", line: { width: 2 } }],
    ["slow", (k) => own.kind[k] === "slow", { size: 4, color: theme.soft, opacity: 0.6 }],
  ];
  return kinds.map(([name, test, marker]) => {
    const found = take(own, places(own.kind.length, test));
    const times = found.time_constant_1.map((_, k) => [1, 2, 3].map((n) => found[`time_constant_${n}`][k]).filter((t) => t != null).map(format).join(", "));
    return {
      type: "scatter", mode: "markers", name, legendgroup: name, x: found.component_1, y: found.component_2, marker, hovertemplate: "%{text}<extra></extra>",
      text: times.map((time, k) => `${name}, ${found.unstable_directions[k]} unstable directions<br>time constants ${time} steps`), ...more,
    };
  });
}

function makePoints() {
  const found = analyses["fixed-points"];
  if (!found?.points) return;
  const known = unique(found.points.id), inputs = unique(found.points.input);
  let input = inputs[0];
  const list = choice("Network", known, networks.ids[state.selected], (id) => select(placeOf.get(id)));
  const details = element("details", {}, element("summary", {}, "Table of these points"));
  const made = figure("points", () => {
    const id = networks.ids[state.selected];
    const own = where(found.points, { id, input });
    const traces = ["meta", "base"].flatMap((which, side) => {
      const axes = side ? { xaxis: "x2", yaxis: "y2" } : {};
      const lines = found.trajectories ? where(found.trajectories, { id, which }) : { trajectory: [] };
      return [
        ...unique(lines.trajectory).map((number) => {
          const run = where(lines, { trajectory: number });
          return { type: "scatter", mode: "lines", x: run.component_1, y: run.component_2, line: { color: theme.soft, width: 0.8 }, opacity: 0.7, hoverinfo: "skip", showlegend: false, ...axes };
        }),
        ...portrait(where(own, { which }), { ...axes, showlegend: !side }),
      ];
    });
    list.querySelector("select").value = id;
    const columns = ["which", "kind", "stable", "unstable_directions", "time_constant_1", "time_constant_2", "time_constant_3", "speed", "distance"];
    details.replaceChildren(details.firstChild, rows(["", ...columns.slice(1).map(words)], own.id.map((_, k) => columns.map((name) => format(own[name][k])))));
    const title = (text, x) => ({ text, x, y: 1, xref: "paper", yref: "paper", showarrow: false, xanchor: "center", yanchor: "bottom" });
    return {
      traces,
      layout: {
        xaxis: axis("component 1", { domain: [0, 0.46] }), yaxis: axis("component 2"),
        xaxis2: axis("component 1", { domain: [0.54, 1], anchor: "y2" }), yaxis2: axis("", { anchor: "x2" }),
        legend: { orientation: "h", x: 0, y: 1.1, yanchor: "bottom" },
        annotations: [title("meta-model at theta", 0.23), title("the network itself", 0.77), ...(own.id.length ? [] : [title("this network was not analysed", 0.5)])],
      },
      table: own,
    };
  }, [list, choice("Input", inputs, input, (value) => { input = value; redraw("points"); })]);
  made.place.id = "points";
  made.place.append(details);
}

function makePath() {
  const { path, bifurcations } = analyses["theta-path"] ?? {};
  if (!path) return;
  const steps = unique(path.step), at = new Map(path.step.map((step, k) => [step, path.at[k]]));
  const last = Math.max(...steps);
  const label = element("output");
  const slider = element("input", { type: "range", min: 0, max: last, value: 0, step: 1, "aria-label": "Step along the path", oninput: () => redraw("path") });
  const counts = (stable) => Array.from({ length: last + 1 }, (_, step) => where(path, { step, stable }).step.length);
  const position = Array.from({ length: last + 1 }, (_, step) => at.get(step) ?? step / last);
  const [stable, unstable] = [counts(true), counts(false)];
  figure("path", () => {
    const step = Number(slider.value);
    const here = where(path, { step });
    label.value = `${format(position[step])} of the way: ${stable[step]} stable, ${unstable[step]} unstable`;
    const line = (name, y, color) => ({ type: "scatter", mode: "lines", name: `${name} points`, x: position, y, line: { color, shape: "hv" }, xaxis: "x2", yaxis: "y2", showlegend: false });
    const upright = (x, color, dash) => ({ type: "line", xref: "x2", yref: "y2 domain", x0: x, x1: x, y0: 0, y1: 1, line: { color, width: 1.5, dash } });
    return {
      traces: [
        { type: COUNT > MANY ? "scattergl" : "scatter", mode: "markers", name: "elsewhere on the path", x: path.component_1, y: path.component_2, marker: { size: 3, color: theme.soft, opacity: 0.35 }, hoverinfo: "skip" },
        ...portrait({ ...here, kind: here.step.map(() => "fixed") }, {}).slice(0, 2),
        line("stable", stable, PALETTE[0]), line("unstable", unstable, PALETTE[1]),
      ],
      layout: {
        xaxis: axis("component 1", { domain: [0, 0.46] }), yaxis: axis("component 2"), xaxis2: axis("along the path", { domain: [0.56, 1], anchor: "y2", range: [0, 1] }),
        yaxis2: axis("points", { anchor: "x2", rangemode: "tozero" }), uirevision: "path",
        shapes: [upright(position[step], theme.ink, "solid"), ...(bifurcations?.at ?? []).map((x) => upright(x, PALETTE[3], "dot"))],
      },
      table: path,
    };
  }, [element("label", { style: "display:contents" }, "Step ", slider), label]);
  const place = document.querySelector('figure[data-figure="path"]');
  if (bifurcations?.at.length) place.append(rows(["bifurcation", "at"], bifurcations.kind.map((kind, k) => [kind, format(bifurcations.at[k])])));
}

// Joins lists into one trace: a gap after each.
const joined = (lists) => lists.flatMap((list) => [...list, null]);

function makeMemory() {
  const { memory } = analyses.memory ?? {};
  if (!memory) return;
  const computations = unique(memory.computation), all = "all";
  let computation = all;
  const drawn = places(memory.id.length, (k) => memory.base_kernel[k]);
  const relative = (kernel) => kernel.map((value) => (kernel[0] ? value / kernel[0] : value));
  figure("memory", () => {
    const chosen = drawn.filter((k) => computation === all || memory.computation[k] === computation);
    const line = (own, which, more) => ({
      type: COUNT > MANY ? "scattergl" : "scatter", mode: "lines", x: joined(own.map((k) => memory[`${which}_kernel`][k].map((_, lag) => lag))),
      y: joined(own.map((k) => relative(memory[`${which}_kernel`][k]))),
      text: joined(own.map((k) => memory[`${which}_kernel`][k].map(() => `${plain(memory.id[k])}<br>${which === "base" ? "network" : "meta-model"}, time constant ${format(memory[`${which}_time_constant`][k])} steps`))),
      hovertemplate: "%{text}<extra></extra>", ...more,
    });
    const dash = { base: "solid", meta: "dash" };
    const traces = computations.flatMap((name, number) => {
      const own = chosen.filter((k) => memory.computation[k] === name), color = PALETTE[number % PALETTE.length];
      return own.length ? ["base", "meta"].map((which) => line(own, which, {
        name: `${plain(name)}, ${which === "base" ? "networks" : "meta-model"}`, opacity: 0.6, line: { color, width: 1, dash: dash[which] } })) : [];
    });
    const selected = chosen.filter((k) => memory.id[k] === networks.ids[state.selected]);
    if (selected.length) traces.push(...["base", "meta"].map((which) => line(selected, which, { name: "selected", showlegend: which === "base", line: { color: theme.ink, width: 2.5, dash: dash[which] } })));
    const { base_kernel: base, meta_kernel: meta, ...scalars } = take(memory, chosen);
    const lags = (kernels, name) => Object.fromEntries((kernels[0] ?? []).map((_, lag) => [`${name}_kernel_${lag}`, kernels.map((kernel) => kernel[lag])]));
    return { traces, layout: { xaxis: axis("steps before the end"), yaxis: axis("response, relative to the last input") }, table: { ...scalars, ...lags(base, "base"), ...lags(meta, "meta") } };
  }, computations.length > 1 ? [choice("Computation", [all, ...computations], computation, (value) => { computation = value; redraw("memory"); })] : []);
}

function makeTrajectory() {
  const { trajectory } = analyses.trajectory ?? {};
  if (!trajectory || !networks.theta) return;
  // The map is of the first meta-model; its points are those of the paths.
  const own = where(trajectory, { meta: 0 });
  const [x, y] = [0, 1].map((k) => own.network.map((id) => networks.components[placeOf.get(id)][k]));
  const label = own.path.map((id) => valueOf("computation", placeOf.get(id)) ?? valueOf("group", placeOf.get(id)));
  const type = COUNT > MANY ? "scattergl" : "scatter";
  figure("trajectory", () => {
    const traces = [{ type, mode: "markers", name: "all networks", x: networks.components.map((c) => c[0]), y: networks.components.map((c) => c[1]), marker: { size: 5, color: theme.soft, opacity: 0.3 }, hoverinfo: "skip" }];
    unique(label).forEach((name, number) => {
      const paths = unique(own.path.filter((_, k) => label[k] === name)).map((path) => places(own.path.length, (k) => own.path[k] === path));
      const sizes = paths.map((path) => path.map((_, k) => (k === path.length - 1 ? 10 : 4)));
      traces.push({
        type, mode: "lines+markers", name: plain(name), x: joined(paths.map((path) => path.map((k) => x[k]))), y: joined(paths.map((path) => path.map((k) => y[k]))),
        text: joined(paths.map((path) => path.map((k) => `${plain(own.network[k])}<br>${own.epochs[k]} epochs`))), hovertemplate: "%{text}<extra></extra>",
        line: { color: PALETTE[number % PALETTE.length], width: 1.3 }, marker: { size: joined(sizes), color: PALETTE[number % PALETTE.length] },
      });
    });
    const { theta, ...facts } = own;
    const title = (k) => `component ${k + 1} (${Math.round(100 * networks.shares[k])} % of variance)`;
    return { traces, layout: { xaxis: axis(title(0)), yaxis: axis(title(1)) }, table: { ...facts, component_1: x, component_2: y } };
  });
}

function makeCopies() {
  if (!analyses.reparameterize) return;
  const { measure, ratio } = analyses.reparameterize.copies;
  const known = places(measure.length, (k) => ratio[k] != null);
  figure("copies", () => ({
    traces: [{ type: "bar", orientation: "h", y: known.map((k) => words(measure[k])), x: known.map((k) => ratio[k]), marker: { color: PALETTE[0] }, hovertemplate: "%{x:.4f}<extra></extra>" }],
    layout: { xaxis: axis("distance of a copy / distance between computations"), yaxis: axis("") }, table: analyses.reparameterize.copies,
  }));
}

function makeTraining() {
  figure("losses", () => {
    const names = Object.keys(shown.training);
    const traces = names.flatMap((name, number) => {
      const { step, loss, held_out_loss: held } = shown.training[name], known = places(step.length, (k) => held[k] != null);
      const color = PALETTE[number % PALETTE.length];
      return [
        { type: "scatter", mode: "lines", name: plain(name), x: step, y: loss, line: { color, width: 1.3 } },
        { type: "scatter", mode: "lines", name: `${plain(name)}, held out`, x: known.map((k) => step[k]), y: known.map((k) => held[k]), line: { color, width: 1.3, dash: "dash" }, showlegend: false },
      ];
    });
    const table = { meta_model: names.flatMap((name) => shown.training[name].step.map(() => name)) };
    for (const column of ["step", "loss", "hidden", "output", "held_out_loss"]) table[column] = names.flatMap((name) => shown.training[name][column]);
    return { traces, layout: { xaxis: axis("step"), yaxis: axis("loss", { type: "log" }) }, table };
  });
  figure("curves", () => {
    const epochs = (curve) => curve.map((_, k) => k + 1);
    const traces = Object.entries(networks.group_curves).map(([name, curve], number) => (
      { type: "scatter", mode: "lines", name: plain(name), x: epochs(curve), y: curve, line: { color: PALETTE[number % PALETTE.length], width: 2 } }));
    const own = networks.curves[state.selected];
    if (own && networks.theta) traces.push({ type: "scatter", mode: "lines", name: plain(networks.ids[state.selected]), x: epochs(own), y: own, line: { color: theme.ink, width: 1, dash: "dot" } });
    const all = networks.curves.length ? networks.ids.map((id, place) => [id, networks.curves[place] ?? []]) : Object.entries(networks.group_curves);
    const table = { of: all.flatMap(([of, curve]) => curve.map(() => of)), epoch: all.flatMap(([, curve]) => epochs(curve)), loss: all.flatMap(([, curve]) => curve) };
    return { traces, layout: { xaxis: axis("epoch"), yaxis: axis("loss", { type: "log" }), showlegend: traces.length <= LEVELS + 1 }, table };
  });
}

// Pictures that jordan-dist has drawn can be had too: those for light.
for (const { src, parentElement } of document.querySelectorAll("figure img.light")) {
  const downloads = parentElement.querySelector(".downloads");
  downloads.append(element("a", { href: src, download: downloads.firstChild.download.replace("csv", "svg") }, "SVG"));
}

// ---- theme and printing -------------------------------------------------------------------------------------------------------

const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)");

function wear(name) {
  if (name) root.dataset.theme = name;
  theme = colours();
  for (const made of figures.values()) made.draw();
}

document.getElementById("theme").addEventListener("click", () => wear((root.dataset.theme ?? (dark.matches ? "dark" : "light")) === "dark" ? "light" : "dark"));
dark.addEventListener("change", () => wear());

let before;
addEventListener("beforeprint", () => {
  before = root.dataset.theme;
  wear("light");
  for (const made of figures.values()) reveal(made);
});
addEventListener("afterprint", () => {
  if (before) wear(before);
  else { delete root.dataset.theme; wear(); }
});

if (networks.theta) { makeMap(); describeNetwork(); compare(); }
makeTable();
makeDisputed();
makeSimilarity();
makeAveraging();
makeLandscape();
makeSemisupervised();
makePoints();
makePath();
makeMemory();
makeTrajectory();
makeCopies();
makeTraining();
