const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
const percent = (share) => `${(100 * share).toFixed(1)}%`;

function common(a, b) {
  const wide = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), high = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  return Math.max(wide, 0) * Math.max(high, 0);
}

const overlap = (a, b) => common(a, b) / (area(a) + area(b) - common(a, b));

// Share of a region that the view of an image shows which shows least of it; 2 without views.
function leastShown(item, region) {
  const [width, height] = item.size ?? [1, 1];
  return Math.min(2, ...(item.state.views ?? []).map(([top, left, high, wide]) =>
    common([left / width, top / height, (left + wide) / width, (top + high) / height], region) / area(region)));
}

function halves(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float64Array.from({ length: bytes.length / 2 }, (_, i) => {
    const bits = view.getUint16(2 * i, true);
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    return exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024);
  });
}

const place = (rect, box) => {
  const values = { x: box[0], y: box[1], width: box[2] - box[0], height: box[3] - box[1] };
  for (const [key, value] of Object.entries(values)) rect.setAttribute(key, value);
};

function outline(svg, box, className) {
  const rect = drawn("rect", { class: className });
  place(rect, box);
  svg.append(rect);
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
  if (item.other) parts.push(`IoU ${overlap(box, item.other).toFixed(2)} with ${data.other}`);
  if (item.before) parts.push(`IoU ${overlap(box, item.before).toFixed(2)} with ${data.earlier[item.states.indexOf(item.state) - 1]}`);
  if (item.orientation > 1) parts.push(`EXIF ${item.orientation}`);
  return parts.join(" · ");
}

function cutViews(item, image, row) {
  const side = row.dataset.side;
  const scale = image.naturalWidth / item.size[0], down = image.naturalHeight / item.size[1];
  row.replaceChildren(...item.state.views.map(([top, left, height, width]) => {
    const canvas = make("canvas");
    canvas.height = side;
    canvas.width = Math.max(1, Math.round(side * width / height));
    canvas.getContext("2d").drawImage(
      image, left * scale, top * down, width * scale, height * down, 0, 0, canvas.width, canvas.height);
    return canvas;
  }));
}

// A picture with its heatmap and boxes, what was cut from it, and a caption.
function card(item, large) {
  const figure = make("figure", "card"), picture = make("div", "picture");
  const [width, height] = item.size ?? [1, 1];
  picture.style.aspectRatio = `${width} / ${height}`;
  if (large) picture.style.width = `min(100%, calc(52vh * ${width / height}))`;
  const image = make("img"), heat = make("canvas", "heat"), row = make("div", "cuts");
  if (item.picture) {
    image.alt = "";
    picture.append(image);
  } else picture.append(make("span", "none", "no image"));
  if (item.states.some((state) => state.values)) picture.append(heat);
  const svg = drawn("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  picture.append(svg);
  figure.append(picture);
  row.dataset.side = large ? 150 : 64;
  if (item.picture) figure.append(row);
  const text = make("figcaption", "caption"), line = make("span");
  const name = make("b", "", item.key);
  name.title = item.key;
  text.append(name, line);
  figure.append(text);

  let filled = false, painted = null;
  const paintState = () => {
    painted = item.state;
    if (image.naturalWidth) cutViews(item, image, row);
    if (!item.state.values) return heat.getContext("2d").clearRect(0, 0, heat.width, heat.height);
    const [rows, columns] = data.grid;
    paint(heat, Array.from({ length: rows }, (_, y) => item.state.values.slice(y * columns, (y + 1) * columns)), [255, 90, 0]);
  };
  image.addEventListener("load", paintState);
  const update = () => {
    svg.replaceChildren();
    for (const [top, left, high, wide] of item.state.views ?? []) {
      outline(svg, [left / width, top / height, (left + wide) / width, (top + high) / height], "window");
    }
    for (const box of item.true ?? []) outline(svg, box, "true");
    if (item.other) outline(svg, item.other, "other");
    if (item.before) outline(svg, item.before, "before");
    for (const box of item.objects) outline(svg, box, "choice");
    outline(svg, item.now, "found");
    line.textContent = caption(item, item.now);
    figure.dataset.box = item.now.join(" ");
    figure.dataset.objects = item.objects.map((box) => box.join(" ")).join(" ");
    if (filled && painted !== item.state) paintState();
  };
  const fill = () => {
    filled = true;
    if (item.picture) image.src = `data:image/jpeg;base64,${item.picture}`;
    paintState();
  };
  update();
  return { figure, text, fill, update };
}

// What is drawn of an image: its newest boxes, or those of an earlier refresh.
function setState(item, number) {
  item.state = item.states.at(number);
  item.now = item.state.box;
  item.objects = item.state.choices ?? [];
  item.before = item.states[item.states.indexOf(item.state) - 1]?.box;
}

const items = data.items;
for (const item of items) {
  item.states = [...(item.earlier ?? []), item];
  for (const state of item.states) if (state.heat && data.grid) state.values = halves(state.heat);
  setState(item, -1);
}
const typical = items.filter((item) => item.typical);
const meanArea = (boxes) => boxes.reduce((sum, box) => sum + area(box), 0) / (boxes.length || 1);
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
const agreement = (item, name) => (item[name] ? overlap(item.now, item[name]) : 2);
function arrange() {
  const status = at("by-status").value, label = at("by-label").value, sort = at("sort").value;
  shown = items.filter((item) =>
    (!status || item.status === status) && (!label || labelOf(item) === label) && (!only || only(item)));
  const orders = {
    small: (a, b) => area(a.now) - area(b.now),
    large: (a, b) => area(b.now) - area(a.now),
    status: (a, b) => STATUSES.indexOf(a.status) - STATUSES.indexOf(b.status),
    change: (a, b) => agreement(a, "other") - agreement(b, "other"),
    moved: (a, b) => agreement(a, "before") - agreement(b, "before"),
    alike: (a, b) => overlap(b.now, data.median) - overlap(a.now, data.median),
    box: (a, b) => leastShown(a, a.now) - leastShown(b, b.now),
    middle: (a, b) => leastShown(a, MIDDLE) - leastShown(b, MIDDLE),
  };
  if (orders[sort]) shown.sort(orders[sort]);
  gallery.replaceChildren(...shown.map((item) => cards.get(item).figure));
  shown.forEach((item, i) => { cards.get(item).figure.tabIndex = i ? -1 : 0; });
  at("count").textContent = shown.length === items.length ? `${items.length} images` : `${shown.length} of ${items.length} images`;
  at("nothing").hidden = shown.length > 0;
}

const STATUSES = ["unreadable", "empty", "ok"];
const MIDDLE = [0.25, 0.25, 0.75, 0.75];
// What a finding is about that no filter has.
const ONLY = { absent: (item) => item.absent, bytes: (item) => item.bytes };
let only = null;
function offer(select, names) {
  for (const name of names) select.append(new Option(name, name));
  select.closest("label").hidden = names.length < 2;
}
offer(at("by-status"), STATUSES.filter((status) => items.some((item) => item.status === status)));
offer(at("by-label"), [...new Set(items.map(labelOf).filter(Boolean))].sort());
if (items.some((item) => item.other)) at("sort").querySelector("[value=change]").hidden = false;
at("sort").querySelector("[value=moved]").hidden = !items.some((item) => item.before);
for (const value of ["box", "middle"]) at("sort").querySelector(`[value=${value}]`).hidden = !items.some((item) => item.views);
at("sort").querySelector("[value=alike]").hidden = !data.median;
if (items.some((item) => item.true)) document.querySelector(".legend .true").hidden = false;
if (!items.some((item) => item.values)) at("heat").closest("label").hidden = true;
for (const id of ["by-status", "by-label", "sort"]) {
  at(id).addEventListener("change", () => { only = null; arrange(); });
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
    only = name === "only" ? ONLY[value] : null;
    arrange();
    at("controls").scrollIntoView();
    gallery.firstElementChild?.focus({ preventScroll: true });
  });
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

