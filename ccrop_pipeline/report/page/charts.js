// Figures under the pointer, or under the epoch that the arrow keys have come to, in every chart.
const figures = [...document.querySelectorAll(".chart")];
const figureOf = (value, asShare) => (asShare ? `${(100 * value).toFixed(1)}%` : `${Number(value.toPrecision(5))}`);
const nearest = (points, epoch) =>
  points.reduce((best, point) => (Math.abs(point[0] - epoch) < Math.abs(best[0] - epoch) ? point : best));

function read(epoch) {
  figures.forEach((figure, i) => {
    const { lines, frame, epochs, percent: asShare } = data.charts[i];
    const points = lines.map((line) => nearest(line.points, epoch));
    const closest = nearest(points, epoch)[0];
    const x = frame[0] + (frame[2] - frame[0]) * (closest - epochs[0]) / (epochs[1] - epochs[0]);
    const cursor = figure.querySelector(".cursor");
    for (const end of ["x1", "x2"]) cursor.setAttribute(end, x);
    cursor.setAttribute("visibility", "visible");
    const values = points.map((point) => (point[0] === closest ? figureOf(point[1], asShare) : ""));
    const [head, ...keys] = figure.querySelectorAll("output");
    head.textContent = `epoch ${closest}${keys.length ? "" : `: ${values[0]}`}`;
    keys.forEach((key, at) => { key.textContent = values[at]; });
  });
}

figures.forEach((figure, i) => {
  const svg = figure.querySelector("svg"), { lines, frame, epochs } = data.charts[i];
  svg.addEventListener("pointermove", (event) => {
    const place = svg.getBoundingClientRect(), x = (event.clientX - place.left) * svg.viewBox.baseVal.width / place.width;
    read(epochs[0] + (epochs[1] - epochs[0]) * (x - frame[0]) / (frame[2] - frame[0]));
  });
  // Of all charts that follow, only the one that is focused is read aloud.
  for (const [type, live] of [["focus", "polite"], ["blur", "off"]]) {
    svg.addEventListener(type, () => { for (const output of figure.querySelectorAll("output")) output.ariaLive = live; });
  }
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const stops = [...new Set(lines.flatMap((line) => line.points.map((point) => point[0])))].sort((a, b) => a - b);
    const last = stops.length - 1, now = stops.indexOf(Number(svg.dataset.epoch ?? NaN));
    svg.dataset.epoch = stops[now < 0 ? (step > 0 ? 0 : last) : Math.min(Math.max(now + step, 0), last)];
    read(Number(svg.dataset.epoch));
  });
});
