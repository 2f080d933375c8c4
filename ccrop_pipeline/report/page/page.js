"use strict";
// Boxes are worked out as ccrop_pipeline/localize/box_rules.py does, in the same float64 steps, so
// that they are the same to the last bit. Text from data is set as text, never as HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const RASTER = 2 ** 24;
const MOST = Math.floor(0.99 * RASTER);
const FULL = [0, 0, 1, 1];
const rule = data.rule;
const redraws = rule && data.grid && rule.threshold !== null && rule.objects === 1;

function halves(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float64Array.from({ length: bytes.length / 2 }, (_, i) => {
    const bits = view.getUint16(2 * i, true);
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024);
  });
}

// Weights of bilinear upsampling along one axis; pixel centres are aligned.
function upsampling(cells, size) {
  const steps = [], unit = 2 * size;
  for (let index = 0; index < size; index++) {
    const position = Math.min(Math.max((2 * index + 1) * cells - size, 0), unit * (cells - 1));
    const left = Math.floor(position / unit), rest = position % unit;
    steps.push({ left, right: Math.min(left + 1, cells - 1), near: unit - rest, far: rest });
  }
  // A row is greatest at the first or last output between two cell centres.
  const ends = steps.filter((step, i) =>
    i === 0 || i === size - 1 || steps[i - 1].left !== step.left || steps[i + 1].left !== step.left);
  return { steps, ends };
}

const across = redraws && upsampling(data.grid[1], rule.input_size);
const down = redraws && upsampling(data.grid[0], rule.input_size);

// floor(threshold * 4 size^2 * 2^24) / 2^24 without rounding on the way.
function limitOf(threshold, size) {
  let whole = threshold, shift = 0n;
  while (!Number.isInteger(whole)) { whole *= 2; shift++; }
  return Number((BigInt(whole) * BigInt(4 * size * size * RASTER)) >> shift) / RASTER;
}

function thresholdOf(heat, threshold, share) {
  const sum = heat.reduce((total, value) => total + value * RASTER, 0);
  const own = Math.floor((sum * share) / heat.length);
  return Math.min(own + Math.floor(threshold * RASTER), MOST) / RASTER;
}

// Keep the largest connected part: most cells, then most heat, then the first row by row.
function onlyLargest(heat, threshold) {
  const [height, width] = data.grid;
  const seen = new Int32Array(heat.length).fill(-1);
  let best = null, number = 0;
  for (let start = 0; start < heat.length; start++) {
    if (seen[start] >= 0 || !(heat[start] > threshold)) continue;
    const part = { number: number++, cells: 0, heat: 0 }, waiting = [start];
    seen[start] = part.number;
    while (waiting.length) {
      const cell = waiting.pop(), y = Math.floor(cell / width), x = cell % width;
      part.cells++;
      part.heat += heat[cell];
      for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
        for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
          const next = v * width + u;
          if (seen[next] < 0 && heat[next] > threshold) { seen[next] = part.number; waiting.push(next); }
        }
      }
    }
    if (!best || part.cells > best.cells || (part.cells === best.cells && part.heat > best.heat)) best = part;
  }
  return best ? heat.map((value, cell) => (seen[cell] < 0 || seen[cell] === best.number ? value : 0)) : heat;
}

// First content line and the one after the last, along the axis of `lines`; null without content.
function extent(heat, lines, lineStride, others, otherStride, limit) {
  let first = null, end = null;
  lines.forEach((line, index) => {
    const above = others.some((other) => {
      const value = (cell) =>
        other.near * heat[cell + other.left * otherStride] + other.far * heat[cell + other.right * otherStride];
      return line.near * value(line.left * lineStride) + line.far * value(line.right * lineStride) > limit;
    });
    if (above) { if (first === null) first = index; end = index + 1; }
  });
  return first === null ? null : [first, end];
}

function grown([first, end]) {
  const size = rule.input_size;
  let low = first / size, high = end / size;
  const margin = (high - low) * rule.margin;
  low = Math.max(low - margin, 0);
  high = Math.min(high + margin, 1);
  const missing = Math.max(rule.min_size - (high - low), 0) / 2;
  low -= missing;
  high += missing;
  const inwards = Math.max(-low, 0) - Math.max(high - 1, 0);
  return [low + inwards, high + inwards].map((edge) => Math.fround(Math.min(Math.max(edge, 0), 1)));
}

function boxOf(heat, threshold) {
  const size = rule.input_size, width = data.grid[1];
  const own = rule.mean_share ? thresholdOf(heat, threshold, rule.mean_share) : threshold;
  const limit = rule.mean_share ? own * 4 * size * size : limitOf(threshold, size);
  const kept = rule.component === "largest" ? onlyLargest(heat, own) : heat;
  const x = extent(kept, across.steps, 1, down.ends, width, limit);
  const y = extent(kept, down.steps, width, across.ends, 1, limit);
  if (!x || !y) return FULL;
  const [left, right] = grown(x), [top, bottom] = grown(y);
  return [left, top, right, bottom];
}

const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function overlap(a, b) {
  const wide = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), high = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const shared = Math.max(wide, 0) * Math.max(high, 0);
  return shared / (area(a) + area(b) - shared);
}

function make(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function drawn(name, attributes) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

const place = (rect, box) => {
  const values = { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1] };
  for (const [key, value] of Object.entries(values)) rect.setAttribute(key, value);
};

function outline(svg, box, className) {
  const rect = drawn("rect", { class: className });
  place(rect, box);
  svg.append(rect);
  return rect;
}

// Colour cells by their value, in one hue that shows on both grounds.
function paint(canvas, rows, [red, green, blue]) {
  canvas.width = rows[0].length;
  canvas.height = rows.length;
  const most = Math.max(...rows.map((row) => Math.max(...row))) || 1;
  const pixels = new ImageData(canvas.width, canvas.height);
  rows.flatMap((row) => [...row]).forEach((value, i) => pixels.data.set([red, green, blue, 255 * value / most], 4 * i));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

const labelOf = (item) =>
  item.label === undefined || item.label === null ? "" : data.classes[item.label] ?? String(item.label);

function caption(item, box) {
  const parts = [percent(area(box))];
  if (item.status !== "ok") parts.push(item.status);
  if (labelOf(item)) parts.push(labelOf(item));
  if (item.other) parts.push(`IoU ${overlap(box, item.other).toFixed(2)}`);
  if (item.orientation > 1) parts.push(`EXIF ${item.orientation}`);
  return parts.join(" · ");
}

function cuts(item, image, side) {
  const row = make("div", "cuts");
  const draw = () => {
    const scale = image.naturalWidth / item.size[0], down = image.naturalHeight / item.size[1];
    row.replaceChildren(...item.views.map(([top, left, height, width]) => {
      const canvas = make("canvas");
      canvas.height = side;
      canvas.width = Math.max(1, Math.round(side * width / height));
      canvas.getContext("2d").drawImage(
        image, left * scale, top * down, width * scale, height * down, 0, 0, canvas.width, canvas.height);
      return canvas;
    }));
  };
  image.addEventListener("load", draw, { once: true });
  return row;
}

// A picture with its heatmap and boxes, what was cut from it, and a caption.
function card(item, large) {
  const figure = make("figure", "card"), picture = make("div", "picture");
  const [width, height] = item.size ?? [1, 1];
  picture.style.aspectRatio = `${width} / ${height}`;
  if (large) picture.style.width = `min(100%, calc(52vh * ${width / height}))`;
  const image = make("img");
  if (item.picture) {
    image.alt = "";
    picture.append(image);
  } else picture.append(make("span", "none", "no image"));
  const heat = make("canvas", "heat");
  if (item.values) picture.append(heat);
  const svg = drawn("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const [top, left, high, wide] of item.views ?? []) {
    outline(svg, [left / width, top / height, (left + wide) / width, (top + high) / height], "window");
  }
  for (const box of item.true ?? []) outline(svg, box, "true");
  if (item.other) outline(svg, item.other, "other");
  for (const box of item.choices ?? []) outline(svg, box, "choice");
  const found = outline(svg, item.now, "found");
  picture.append(svg);
  figure.append(picture);
  if (item.picture) figure.append(cuts(item, image, large ? 150 : 64));
  const text = make("figcaption", "caption"), line = make("span", "", caption(item, item.now));
  const name = make("b", "", item.key);
  name.title = item.key;
  text.append(name, line);
  figure.append(text);
  const fill = () => {
    if (item.picture) image.src = `data:image/jpeg;base64,${item.picture}`;
    if (!item.values) return;
    const [rows, columns] = data.grid;
    paint(heat, Array.from({ length: rows }, (_, y) => item.values.slice(y * columns, (y + 1) * columns)), [255, 90, 0]);
  };
  return { figure, found, line, text, fill };
}

const items = data.items;
for (const item of items) {
  item.now = item.box;
  if (item.heat && data.grid) item.values = halves(item.heat);
}
const typical = items.filter((item) => item.typical);
const meanArea = (boxes) => boxes.reduce((sum, box) => sum + area(box), 0) / (boxes.length || 1);
const boxAt = (item, threshold) =>
  item.status === "unreadable" || !item.values ? item.box : boxOf(item.values, threshold);

const cards = new Map();
// Pictures are decoded when they come near, so that the page is there at once.
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    target.fill();
  }
}, { rootMargin: "800px" });
const gallery = at("gallery");
for (const item of items) {
  const made = card(item, false);
  made.figure.tabIndex = -1;
  made.figure.setAttribute("role", "button");
  made.figure.setAttribute("aria-label", `${item.key}: enlarge`);
  made.figure.dataset.key = item.key;
  made.figure.addEventListener("click", () => enlarge(item));
  made.figure.addEventListener("focus", () => { for (const one of shown) cards.get(one).figure.tabIndex = one === item ? 0 : -1; });
  made.figure.fill = made.fill;
  near.observe(made.figure);
  cards.set(item, made);
}

let shown = [];
function arrange() {
  const status = at("by-status").value, label = at("by-label").value, sort = at("sort").value;
  shown = items.filter((item) =>
    (!status || item.status === status) && (!label || labelOf(item) === label) && (!onlyAbsent || !item.picture));
  const orders = {
    small: (a, b) => area(a.now) - area(b.now),
    large: (a, b) => area(b.now) - area(a.now),
    status: (a, b) => STATUSES.indexOf(a.status) - STATUSES.indexOf(b.status),
    change: (a, b) => (a.other ? overlap(a.now, a.other) : 2) - (b.other ? overlap(b.now, b.other) : 2),
  };
  if (orders[sort]) shown.sort(orders[sort]);
  gallery.replaceChildren(...shown.map((item) => cards.get(item).figure));
  shown.forEach((item, i) => { cards.get(item).figure.tabIndex = i ? -1 : 0; });
  at("count").textContent = shown.length === items.length ? `${items.length} images` : `${shown.length} of ${items.length} images`;
  at("nothing").hidden = shown.length > 0;
}

const STATUSES = ["unreadable", "empty", "ok"];
let onlyAbsent = false;
function offer(select, names) {
  for (const name of names) select.append(new Option(name, name));
  select.closest("label").hidden = names.length < 2;
}
offer(at("by-status"), STATUSES.filter((status) => items.some((item) => item.status === status)));
offer(at("by-label"), [...new Set(items.map(labelOf).filter(Boolean))].sort());
if (items.some((item) => item.other)) at("sort").querySelector("[value=change]").hidden = false;
if (items.some((item) => item.true)) document.querySelector(".legend .true").hidden = false;
if (!items.some((item) => item.values)) at("heat").closest("label").hidden = true;
for (const id of ["by-status", "by-label", "sort"]) {
  at(id).addEventListener("change", () => { onlyAbsent = false; arrange(); });
}
for (const id of ["heat", "views"]) {
  at(id).addEventListener("change", () => document.body.classList.toggle(`no-${id}`, !at(id).checked));
}
for (const button of document.querySelectorAll("[data-show]")) {
  button.addEventListener("click", () => {
    const [name, value] = button.dataset.show.split("=");
    at("by-label").value = "";
    at("by-status").value = name === "status" ? value : "";
    at("sort").value = name === "sort" ? value : "";
    onlyAbsent = name === "picture";
    arrange();
    at("controls").scrollIntoView();
    gallery.firstElementChild?.focus({ preventScroll: true });
  });
}

// The threshold: null as stored.
let threshold = null;
function redraw() {
  for (const item of items) {
    item.now = threshold === null ? item.box : boxAt(item, threshold);
    const { figure, found, line } = cards.get(item);
    place(found, item.now);
    line.textContent = caption(item, item.now);
    figure.dataset.box = item.now.join(" ");
  }
  const shownThreshold = threshold ?? rule?.threshold;
  if (!redraws) return;
  at("threshold-value").textContent = Number(shownThreshold.toFixed(4));
  at("area-now").textContent = `mean area ${percent(meanArea(typical.map((item) => item.now)))} of ${typical.length} images`;
  at("as-stored").disabled = threshold === null;
  at("rethreshold").hidden = threshold === null;
  const share = rule.mean_share ? ` --mean-share ${rule.mean_share}` : "";
  at("rethreshold").textContent = `ccrop boxes rethreshold ${data.folder} OUT --threshold ${shownThreshold}${share}`;
  const mark = document.querySelector("#curves .mark");
  if (mark) for (const end of ["x1", "x2"]) mark.setAttribute(end, curveX(shownThreshold));
}

const WIDE = 240, HIGH = 150, LEFT = 26;
const curveX = (value) => LEFT + value * (WIDE - LEFT);
function curves() {
  const svg = drawn("svg", { viewBox: `0 0 ${WIDE} ${HIGH + 18}`, role: "img", "aria-label": "Figures by threshold" });
  const y = (value) => HIGH - Math.min(Math.max(value, 0), 1) * (HIGH - 8);
  for (const value of [0, 0.5, 1]) {
    svg.append(drawn("line", { x1: LEFT, x2: WIDE, y1: y(value), y2: y(value), stroke: "var(--line)" }));
    const label = drawn("text", { x: 0, y: y(value) + 4 });
    label.textContent = value;
    svg.append(label);
  }
  const line = (points, colour, name, place) => {
    const path = points.map(([x, value]) => `${curveX(x)},${y(value)}`).join(" ");
    svg.append(drawn("polyline", { points: path, fill: "none", stroke: colour, "stroke-width": 2 }));
    const label = drawn("text", { x: LEFT + place, y: HIGH + 15, style: `fill:${colour}` });
    label.textContent = name;
    svg.append(label);
  };
  const steps = Array.from({ length: 20 }, (_, i) => i / 20);
  line(steps.map((step) => [step, meanArea(typical.map((item) => boxAt(item, step)))]), "var(--accent)", "mean area", 0);
  if (data.choice) line(data.choice.threshold.map((x, i) => [x, data.choice.kappa[i]]), "var(--note)", "kappa, as recorded", 80);
  svg.append(drawn("line", { class: "mark", x1: LEFT, x2: LEFT, y1: 8, y2: HIGH, stroke: "var(--ink)", "stroke-dasharray": "3 3" }));
  at("curves").append(svg);
  at("curves-figure").hidden = false;
}

if (redraws) {
  at("threshold-row").hidden = false;
  const slider = at("threshold");
  const reset = () => { slider.value = Math.round(200 * rule.threshold); threshold = null; redraw(); };
  slider.addEventListener("input", () => { threshold = Number(slider.value) / 200; redraw(); });
  slider.addEventListener("change", arrange);
  at("as-stored").addEventListener("click", () => { reset(); arrange(); });
  reset();
} else {
  at("no-threshold").hidden = false;
  at("no-threshold").textContent = !rule
    ? "These boxes come from no heatmap, so there is no threshold to try."
    : !data.grid ? "No heatmaps are stored, so no other threshold can be tried here."
      : "Boxes are drawn anew for a threshold and one object an image only; `ccrop boxes rethreshold` applies every rule.";
  redraw();
}

let large = null;
function enlarge(item) {
  large = item;
  const made = card(item, true);
  made.fill();
  const edges = item.now.map((edge) => edge.toFixed(3)).join(" ");
  const more = [`box ${edges}`, item.size ? `${item.size[0]} × ${item.size[1]} px` : "", `status ${item.status}`];
  made.text.append(make("br"), make("span", "", more.filter(Boolean).join(" · ")));
  at("large-content").replaceChildren(made.figure);
  if (!at("large").open) at("large").showModal();
}
at("large").addEventListener("close", () => cards.get(large).figure.focus());
at("large").addEventListener("click", (event) => { if (event.target === at("large")) at("large").close(); });

function columns() {
  return getComputedStyle(gallery).gridTemplateColumns.split(" ").length;
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const open = at("large").open, typing = ["INPUT", "SELECT", "TEXTAREA"].includes(event.target.tagName);
  if (!typing && !open && (event.key === "h" || event.key === "v")) at(event.key === "h" ? "heat" : "views").click();
  const from = open ? shown.indexOf(large) : shown.findIndex((item) => cards.get(item).figure === event.target);
  if (from < 0) return;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: open ? 0 : -columns(), ArrowDown: open ? 0 : columns() };
  const next = shown[from + steps[event.key]];
  if (steps[event.key] && next) {
    event.preventDefault();
    if (open) enlarge(next); else cards.get(next).figure.focus();
  } else if (!open && (event.key === "Enter" || event.key === " ")) {
    event.preventDefault();
    enlarge(shown[from]);
  }
});

arrange();
paint(at("centres"), data.centres, [90, 140, 210]);
if (at("mean-heat")) paint(at("mean-heat"), data.mean_heat, [240, 110, 40]);
if (redraws) setTimeout(() => { curves(); redraw(); });
