// Boxes are worked out as ccrop_pipeline/localize/box_rules.py does, in the same float64 steps, so
// that they are the same to the last bit.
const RASTER = 2 ** 24;
const MOST = Math.floor(0.99 * RASTER);
const FULL = [0, 0, 1, 1];
const rule = data.rule;
const MASKS = ["lost", "tokencut"];
const redraws = rule && data.grid && (rule.threshold !== null || rule.mass !== null);

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

// Connected parts of what is above a threshold, along edges and corners, by their first cell.
function partsOf(heat, threshold) {
  const [height, width] = data.grid;
  const of = new Int32Array(heat.length).fill(-1), parts = [];
  for (let start = 0; start < heat.length; start++) {
    if (of[start] >= 0 || !(heat[start] > threshold)) continue;
    const part = { number: parts.length, cells: 0, heat: 0 }, waiting = [start];
    of[start] = part.number;
    parts.push(part);
    while (waiting.length) {
      const cell = waiting.pop(), y = Math.floor(cell / width), x = cell % width;
      part.cells++;
      part.heat += heat[cell];
      for (let v = Math.max(y - 1, 0); v <= Math.min(y + 1, height - 1); v++) {
        for (let u = Math.max(x - 1, 0); u <= Math.min(x + 1, width - 1); u++) {
          const next = v * width + u;
          if (of[next] < 0 && heat[next] > threshold) { of[next] = part.number; waiting.push(next); }
        }
      }
    }
  }
  return { of, parts };
}

// Keep the largest part: most cells, then most heat, then the first row by row.
function onlyLargest(heat, threshold) {
  const { of, parts } = partsOf(heat, threshold);
  const [best] = parts.sort((a, b) => b.cells - a.cells || b.heat - a.heat || a.number - b.number);
  return best ? heat.map((value, cell) => (of[cell] < 0 || of[cell] === best.number ? value : 0)) : heat;
}

// The object that each cell belongs to, from 1, those with the most heat first; 0 for none.
function objectsOf(heat, threshold) {
  if (MASKS.includes(rule.map)) return heat.map((value) => (value > 0 ? 1 + Math.round((1 - value) * 64) : 0));
  const { of, parts } = partsOf(heat, threshold), rank = [];
  parts.sort((a, b) => b.heat - a.heat || a.number - b.number).forEach((part, i) => { rank[part.number] = i + 1; });
  return Array.from(of, (part) => (part < 0 ? 0 : rank[part]));
}

// Ends of the smallest rectangle of cells with a share of the heat; of equal ones that with the most
// heat, then the first. A share is the decimal that is written for it, so its product is in BigInt.
function cellsWithMass(heat, mass) {
  const [height, width] = data.grid, cells = Array.from(heat, (value) => value * RASTER);
  const total = cells.reduce((sum, cell) => sum + cell, 0);
  if (!total) return null;
  const [whole, decimals = ""] = mass.toFixed(3).split("."), unit = 10n ** BigInt(decimals.length);
  const needed = Number((BigInt(whole + decimals) * BigInt(total) + unit - 1n) / unit);
  let best = null;
  for (let top = 0; top < height; top++) {
    const columns = new Array(width).fill(0);
    for (let end = top + 1; end <= height; end++) {
      for (let x = 0; x < width; x++) columns[x] += cells[(end - 1) * width + x];
      let right = 0, held = 0;
      for (let left = 0; left < width; left++) {
        while (right < width && held < needed) held += columns[right++];
        if (held < needed) break;
        const size = (end - top) * (right - left);
        if (!best || size < best.size || (size === best.size && held > best.held)) {
          best = { size, held, x: [left, right], y: [top, end] };
        }
        held -= columns[left];
      }
    }
  }
  return best;
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

function grown([first, end], size) {
  const weight = rule.centre_weight;
  let low = (first / size) * (1 - weight) + weight * 0.1;
  let high = (end / size) * (1 - weight) + weight * 0.9;
  const margin = (high - low) * rule.margin;
  low = Math.max(low - margin, 0);
  high = Math.min(high + margin, 1);
  const missing = Math.max(rule.min_size - (high - low), 0) / 2;
  low -= missing;
  high += missing;
  const inwards = Math.max(-low, 0) - Math.max(high - 1, 0);
  return [low + inwards, high + inwards].map((edge) => Math.fround(Math.min(Math.max(edge, 0), 1)));
}

const boxAround = (x, y, sizes) => {
  const [left, right] = grown(x, sizes[0]), [top, bottom] = grown(y, sizes[1]);
  return [left, top, right, bottom];
};

// The box around what is above a limit; null where nothing is.
function boxAbove(heat, limit) {
  const size = rule.input_size, width = data.grid[1];
  const x = extent(heat, across.steps, 1, down.ends, width, limit);
  const y = extent(heat, down.steps, width, across.ends, 1, limit);
  return x && y ? boxAround(x, y, [size, size]) : null;
}

// The boxes of the objects of a heatmap; the full one where there is none.
function objectBoxes(heat, own, limit) {
  const objects = objectsOf(heat, own), boxes = [], masks = MASKS.includes(rule.map);
  for (let number = 1; number <= Math.min(rule.objects, Math.max(1, ...objects)); number++) {
    const box = boxAbove(heat.map((value, cell) =>
      masks ? Number(objects[cell] === number) : objects[cell] > 0 && objects[cell] !== number ? 0 : value), limit);
    if (box) boxes.push(box);
  }
  return boxes.length ? boxes : [FULL];
}

// The boxes of a heatmap by the rule with another threshold or mass: one, or one for each object.
function boxesOf(heat, cut) {
  if (rule.mass !== null) {
    const found = cellsWithMass(heat, cut);
    return [found ? boxAround(found.x, found.y, [data.grid[1], data.grid[0]]) : FULL];
  }
  const size = rule.input_size;
  const own = rule.mean_share ? thresholdOf(heat, cut, rule.mean_share) : cut;
  const limit = rule.mean_share ? own * 4 * size * size : limitOf(cut, size);
  if (rule.objects > 1) return objectBoxes(heat, own, limit);
  return [boxAbove(rule.component === "largest" ? onlyLargest(heat, own) : heat, limit) ?? FULL];
}

const union = (boxes) => [0, 1, 2, 3].map((edge) => (edge < 2 ? Math.min : Math.max)(...boxes.map((box) => box[edge])));
