// The Macs as a grid: a block for each segment, a cell for each Mac. The canvas is as large as what is visible of it;
// a Mac that changed has its cell painted, and nothing else is.

import { element } from "./parts.js";

export const STATES = ["new", "idle", "session", "booting", "off", "left", "offline"];
const LABEL = 15, BETWEEN = 12, EDGE = 8;

const box = element("grid-box"), canvas = element("grid"), space = element("grid-space");
const context = canvas.getContext("2d");
let blocks = [], places = new Map(), colours = null, size = 12, gap = 2, selected = "", width = 0, height = 0;

// Each cell as { mac, x, y } and each block as { x, y, segment, width, height, cells }, for these Macs in their order.
export function layOut(macs) {
  width = box.clientWidth;
  [size, gap] = macs.length <= 400 ? [18, 3] : macs.length <= 2500 ? [12, 2] : [9, 1];
  const step = size + gap, most = Math.max(1, Math.floor((width - 2 * EDGE) / step));
  const segments = new Map();
  for (const mac of macs) {
    const found = segments.get(mac.segment);
    if (found) found.push(mac); else segments.set(mac.segment, [mac]);
  }
  blocks = []; places = new Map();
  let x = EDGE, y = EDGE, rowHeight = 0;
  for (const [segment, members] of segments) {
    const columns = segments.size === 1 ? most : Math.min(most, Math.max(2, Math.ceil(Math.sqrt(members.length * 2.5))));
    const wide = columns * step, high = LABEL + Math.ceil(members.length / columns) * step;
    if (x > EDGE && x + wide > width - EDGE) { x = EDGE; y += rowHeight + BETWEEN; rowHeight = 0; }
    const cells = members.map((mac, index) => ({
      mac, x: x + (index % columns) * step, y: y + LABEL + Math.floor(index / columns) * step,
    }));
    blocks.push({ x, y, segment, width: wide, height: high, cells });
    for (const cell of cells) places.set(cell.mac.udid, cell);
    x += wide + BETWEEN; rowHeight = Math.max(rowHeight, high);
  }
  space.style.height = `${blocks.length ? y + rowHeight + EDGE : 60}px`;
  paint();
}

export function paint() {
  const ratio = window.devicePixelRatio || 1, top = box.scrollTop;
  height = box.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
    canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
  }
  colours ??= readColours();
  context.setTransform(ratio, 0, 0, ratio, 0, -top * ratio);
  context.clearRect(0, top, width, height);
  context.font = "11px system-ui, sans-serif";
  context.textBaseline = "top";
  for (const block of blocks) {
    if (block.y + block.height < top || block.y > top + height) continue;
    context.fillStyle = colours.muted;
    context.fillText(block.width > 80 ? `Segment ${block.segment}` : `${block.segment}`, block.x, block.y);
    for (const cell of block.cells) if (cell.y + size >= top && cell.y <= top + height) paintCell(cell);
  }
}

// Paints the cells of these Macs, which are where they were, as they are now.
export function paintMacs(udids, macs) {
  const top = box.scrollTop;
  for (const udid of udids) {
    const cell = places.get(udid);
    if (cell) cell.mac = macs?.get(udid) ?? cell.mac;
    if (cell && cell.y + size >= top && cell.y <= top + height) paintCell(cell);
  }
}

function paintCell({ mac, x, y }) {
  const out = Math.min(2, gap);
  context.clearRect(x - out, y - out, size + 2 * out, size + 2 * out);
  context.fillStyle = colours[mac.state];
  context.fillRect(x, y, size, size);
  if (mac.roles.includes("controller")) {
    const dot = Math.max(3, Math.round(size / 3)), inset = (size - dot) / 2;
    context.fillStyle = colours.panel;
    context.fillRect(x + inset, y + inset, dot, dot);
  }
  if (mac.udid === selected) {
    context.strokeStyle = colours.text; context.lineWidth = 2;
    context.strokeRect(x, y, size, size);
  }
}

export function mark(udid) {
  const earlier = selected;
  selected = udid;
  paintMacs([earlier, udid]);
}

export function macAt(event) {
  const { left, top } = canvas.getBoundingClientRect();
  const x = event.clientX - left, y = event.clientY - top + box.scrollTop;
  const block = blocks.find((each) => x >= each.x && x < each.x + each.width && y >= each.y && y < each.y + each.height);
  return block?.cells.find((cell) => x >= cell.x && x < cell.x + size + gap && y >= cell.y && y < cell.y + size + gap)?.mac;
}

export function forgetColours() { colours = null; }

function readColours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries([...STATES, "text", "muted", "panel"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}
