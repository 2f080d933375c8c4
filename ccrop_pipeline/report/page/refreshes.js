// The boxes of every image after one refresh or another.
const states = [...data.earlier, data.newest];
function turn() {
  const number = Number(at("refresh").value);
  for (const item of items) {
    setState(item, number);
    cards.get(item).update();
  }
  at("refresh-name").textContent = states[number];
  at("area-now").textContent = `mean area ${percent(meanArea(typical.map((item) => item.now)))} of ${typical.length} images`;
}
if (at("refresh")) {
  at("refresh").addEventListener("input", turn);
  at("refresh").addEventListener("change", arrange);
  document.addEventListener("keydown", (event) => {
    const step = { ",": -1, ".": 1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    at("refresh").valueAsNumber += step;
    turn();
    if (at("large").open) enlarge(large);
  });
  turn();
}
arrange();
