// The boxes of an image by another threshold or mass.
const boxesAt = (item, cut) =>
  item.status === "unreadable" || !item.values ? item.choices ?? [item.box] : boxesOf(item.values, cut);

// Where the rule cuts, a threshold or a mass: null as stored.
const kind = rule?.mass != null ? "mass" : "threshold";
const figure = (value) => Number(value.toFixed(4));
let cut = null;
function redraw() {
  for (const item of items) {
    if (cut === null) setState(item, -1);
    else {
      const boxes = boxesAt(item, cut);
      item.now = union(boxes);
      item.objects = boxes.length > 1 ? boxes : [];
    }
    cards.get(item).update();
  }
  const shownCut = cut ?? rule[kind];
  const more = rule.mean_share ? ` + ${rule.mean_share} of the image's mean heat` : "";
  at("threshold-value").textContent = `${figure(shownCut)}${more}`;
  at("area-now").textContent = `mean area ${percent(meanArea(typical.map((item) => item.now)))} of ${typical.length} images`;
  at("as-stored").disabled = cut === null;
  at("rethreshold").hidden = cut === null;
  const share = rule.mean_share ? ` --mean-share ${rule.mean_share}` : "";
  const centre = rule.centre_weight ? ` --centre-weight ${rule.centre_weight}` : "";
  at("rethreshold").textContent = `ccrop boxes rethreshold ${data.folder} OUT --${kind} ${shownCut}${share}${centre}`;
  const mark = document.querySelector("#curves .mark");
  if (mark) for (const end of ["x1", "x2"]) mark.setAttribute(end, curveX(shownCut));
}

const WIDE = 240, HIGH = 150, LEFT = 26;
const curveX = (value) => LEFT + value * (WIDE - LEFT);
function curves() {
  const svg = drawn("svg", { viewBox: `0 0 ${WIDE} ${HIGH + 18}`, role: "img", "aria-label": `Figures by ${kind}` });
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
  const steps = Array.from({ length: 20 }, (_, i) => (kind === "mass" ? i + 1 : i) / 20);
  line(steps.map((step) => [step, meanArea(typical.map((item) => union(boxesAt(item, step))))]), "var(--accent)", "mean area", 0);
  if (data.choice) line(data.choice.threshold.map((x, i) => [x, data.choice.kappa[i]]), "var(--note)", "kappa, as recorded", 80);
  svg.append(drawn("line", { class: "mark", x1: LEFT, x2: LEFT, y1: 8, y2: HIGH, stroke: "var(--ink)", "stroke-dasharray": "3 3" }));
  at("curves-name").textContent = `By ${kind}`;
  at("curves").append(svg);
  at("curves-figure").hidden = false;
}

if (redraws) {
  at("threshold-row").hidden = false;
  const slider = at("threshold");
  at("threshold-name").textContent = kind === "mass" ? "Mass" : "Threshold";
  if (kind === "mass") Object.assign(slider, { min: 1, max: 200 });
  const reset = () => { slider.value = Math.round(200 * rule[kind]); cut = null; redraw(); };
  slider.addEventListener("input", () => { cut = Number(slider.value) / 200; redraw(); });
  slider.addEventListener("change", arrange);
  at("as-stored").addEventListener("click", () => { reset(); arrange(); });
  reset();
} else {
  at("no-threshold").hidden = false;
  at("no-threshold").textContent = !rule
    ? "These boxes come from no heatmap, so there is no threshold to try."
    : "No heatmaps are stored, so no other threshold can be tried here.";
}

arrange();
paint(at("centres"), data.centres, [90, 140, 210]);
if (at("mean-heat")) paint(at("mean-heat"), data.mean_heat, [240, 110, 40]);
if (redraws) setTimeout(() => { curves(); redraw(); });
