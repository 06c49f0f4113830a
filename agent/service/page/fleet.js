// All Macs: read once, kept up to date by events, and what of them is shown.

import { api } from "./api.js";
import * as grid from "./grid.js";
import { attempt, button, count, element, framed, make, put, state, words } from "./parts.js";

const HINT = "A square is a Mac; a dot in it marks a LOM Controller.";
const ROWS = 50;            // of the table at a time
const READ = 10000;         // Macs in one answer
const SOON_MS = 400;        // after an event until the Mac is read again
const FEW = 8;              // Macs that are read one by one
const BETWEEN_READS_MS = 5000;
const BETWEEN_DRAWS_MS = 100;

const macs = new Map();     // by UDID, in the order of their numbers
const stale = new Set(), changedCells = new Set();
let shown = [], place = 0, layoutIsOld = true, lastRead = 0, timer = 0, selectMac = () => {};

export const known = (udid) => macs.get(udid);
export const shownMacs = () => shown;
export const whenSelected = (call) => { selectMac = call; };

export async function readFleet() {
  stale.clear();
  const found = [];
  for (let part = null; !part || part.length === READ;) {
    part = await api("GET", `v1/macs?after=${found.length ? found.at(-1).number : -1}&limit=${READ}`);
    found.push(...part);
  }
  lastRead = Date.now();
  macs.clear();
  for (const mac of found) macs.set(mac.udid, mac);
  layoutIsOld = true;
  draw();
}

// The Mac as the service has just shown it.
export function keep(mac) {
  const before = macs.get(mac.udid);
  macs.set(mac.udid, mac);
  changed(mac, before ? before.segment !== mac.segment : true);
}

export function drop(udid) {
  if (macs.delete(udid)) { layoutIsOld = true; draw(); }
}

function changed(mac, moved = false) {
  changedCells.add(mac.udid);
  if (moved || filter.isSet) layoutIsOld = true;
  draw();
}

// What events tell at once. The state that the service shows is read soon after.
export function follow(events) {
  for (const event of events) {
    const mac = macs.get(event.udid);
    if (event.kind === "added" || event.kind === "reset" || event.kind === "worker_lost" || (event.udid && !mac)) stale.add("");
    else if (event.kind === "removed") drop(event.udid);
    else if (mac && CHANGES[event.kind]) {
      macs.set(mac.udid, { ...mac, ...CHANGES[event.kind](mac, event) });
      changed(mac);
      stale.add(mac.udid);
    }
  }
  if (stale.size) readSoon();
}

const whileOnline = (mac, name) => (mac.online ? name : "offline");
const CHANGES = {
  enrolled: (mac) => ({ enrolled: true, state: whileOnline(mac, "session") }),
  unenrolled: (mac) => ({ enrolled: false, state: whileOnline(mac, "left") }),
  session_started: (mac) => ({ state: whileOnline(mac, "session") }),
  session_ended: (mac) => ({ state: whileOnline(mac, mac.power === "on" && mac.enrolled ? "idle" : mac.state) }),
  network: (mac, event) => ({ online: event.status === "online", state: event.status === "online" ? resting(mac) : "offline" }),
  power: (mac, event) => ({ power: event.status, state: whileOnline(mac, resting({ ...mac, power: event.status })) }),
};

function resting(mac) {
  if (mac.power === "booting") return "booting";
  if (mac.power !== "on") return "off";
  return mac.enrolled ? "idle" : "new";
}

function readSoon() {
  if (timer) return;
  const wait = stale.has("") || stale.size > FEW ? Math.max(SOON_MS, lastRead + BETWEEN_READS_MS - Date.now()) : SOON_MS;
  timer = setTimeout(async () => {
    timer = 0;
    try {
      if (stale.has("") || stale.size > FEW) await readFleet();
      else for (const udid of [...stale]) { stale.delete(udid); keep(await api("GET", `v1/macs/${udid}`)); }
    } catch { stale.add(""); setTimeout(readSoon, BETWEEN_READS_MS); }
  }, stale.has("") && stale.size === 1 ? SOON_MS : wait);
}

// The filter.

const filter = {
  isSet: false,
  read() {
    const value = (id) => element(`filter-${id}`).value.trim();
    Object.assign(this, { text: value("text").toLowerCase(), state: value("state"), segment: value("segment"), role: value("role"), os: value("os") });
    this.isSet = Boolean(this.text || this.state || this.segment || this.role || this.os);
  },
  allows(mac) {
    return (!this.state || mac.state === this.state) && (!this.segment || mac.segment === Number(this.segment)) &&
      (!this.role || mac.roles.includes(this.role)) && (!this.os || `${mac.os_version}.`.startsWith(`${this.os}.`)) &&
      (!this.text || [mac.udid, mac.serial_number, mac.name, mac.model].some((each) => each.toLowerCase().includes(this.text)));
  },
};

function filtered() {
  filter.read();
  place = 0;
  layoutIsOld = true;
  for (const each of element("legend").querySelectorAll("button")) {
    each.setAttribute("aria-pressed", String(each.dataset.state === filter.state));
  }
  draw();
}

element("filters").addEventListener("input", filtered);
element("filters").addEventListener("submit", (event) => event.preventDefault());
element("filters").addEventListener("reset", () => setTimeout(filtered));

for (const name of grid.STATES) {
  element("filter-state").append(make("option", name));
  const item = make("li"), pressed = button("", "", () => {
    element("filter-state").value = filter.state === name ? "" : name;
    filtered();
  });
  pressed.removeAttribute("aria-label");
  pressed.setAttribute("aria-pressed", "false");
  pressed.dataset.state = name;
  pressed.className = "state";
  pressed.append(`${name} `, make("b", "0"));
  item.append(pressed);
  element("legend").append(item);
}

// Drawing: the whole grid only where Macs came, left, or passed the filter.

const draw = framed(() => {
  if (layoutIsOld) {
    shown = filter.isSet ? [...macs.values()].filter((mac) => filter.allows(mac)) : [...macs.values()];
    grid.layOut(shown);
  } else if (changedCells.size) {
    grid.paintMacs(changedCells, macs);
  }
  layoutIsOld = false;
  changedCells.clear();
  drawCounts();
  if (element("list-box").open) drawList();
}, BETWEEN_DRAWS_MS);

function drawCounts() {
  const counts = Object.fromEntries(grid.STATES.map((name) => [name, 0]));
  let enrolled = 0;
  for (const mac of macs.values()) { counts[mac.state] += 1; if (mac.enrolled) enrolled += 1; }
  for (const each of element("legend").querySelectorAll("button")) {
    const text = count(counts[each.dataset.state]), number = each.lastChild;
    if (number.textContent !== text) number.textContent = text;
  }
  const summary = `${count(macs.size)} Macs, ${count(enrolled)} enrolled`;
  if (element("summary").textContent !== summary) element("summary").textContent = summary;
  const part = filter.isSet ? `${count(shown.length)} of ${count(macs.size)} shown` : `${count(macs.size)} shown`;
  if (element("shown").textContent !== part) element("shown").textContent = part;
  element("empty").hidden = shown.length > 0;
}

function drawList() {
  place = Math.max(0, Math.min(place, shown.length - 1));
  place -= place % ROWS;
  const part = shown.slice(place, place + ROWS).map((mac) => macs.get(mac.udid) ?? mac);
  put(element("list"), JSON.stringify(part.map((mac) => [mac.udid, mac.state, mac.power, mac.enrolled, mac.name])), () => part.map(listRow));
  element("list-place").textContent = part.length ? `${count(place + 1)} to ${count(place + part.length)} of ${count(shown.length)}` : "none";
  element("list-before").disabled = place === 0;
  element("list-after").disabled = place + ROWS >= shown.length;
}

function listRow(mac) {
  const row = make("tr"), name = make("td"), shownState = make("td");
  const choose = button(mac.name, `Details of Mac ${mac.number}, ${mac.name}`, () => selectMac(mac.udid, true));
  choose.dataset.udid = mac.udid;
  name.append(choose);
  shownState.append(state(mac.state));
  row.append(make("td", mac.number, "number"), name, make("td", mac.os_version), make("td", mac.segment, "number"),
    make("td", mac.roles.join(", ")), shownState, make("td", words(mac.power)), make("td", mac.enrolled ? "yes" : "no"));
  return row;
}

element("list-box").addEventListener("toggle", draw);
element("list-before").addEventListener("click", () => { place -= ROWS; drawList(); });
element("list-after").addEventListener("click", () => { place += ROWS; drawList(); });

const repaint = framed(grid.paint);
element("grid-box").addEventListener("scroll", repaint);
new ResizeObserver(() => { layoutIsOld = true; draw(); }).observe(element("grid-box"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { grid.forgetColours(); repaint(); });

element("grid").addEventListener("click", (event) => { const mac = grid.macAt(event); if (mac) selectMac(mac.udid); });
element("grid").addEventListener("mousemove", (event) => {
  const found = grid.macAt(event), mac = found && macs.get(found.udid);
  element("grid-tip").textContent = mac
    ? `Mac ${mac.number}: ${mac.name}, macOS ${mac.os_version}, ${mac.roles.join(" and ")}: ${mac.state}, power ${words(mac.power)}`
    : HINT;
});
element("grid-tip").textContent = HINT;

// One request for each Mac that is shown.

const AT_ONCE = 6;
const BULK = {
  enroll: (mac) => api("POST", `v1/macs/${mac.udid}/enroll`, { url: element("enroll-url").value || null }),
  unenroll: (mac) => api("POST", `v1/macs/${mac.udid}/unenroll`),
  connect: (mac) => api("POST", `v1/macs/${mac.udid}/connect`),
  on: (mac) => api("POST", `v1/macs/${mac.udid}/power`, { action: "on" }),
  off: (mac) => api("POST", `v1/macs/${mac.udid}/power`, { action: "off" }),
  pull_the_plug: (mac) => api("POST", `v1/macs/${mac.udid}/power`, { action: "pull_the_plug" }),
  cut_mains: (mac) => api("POST", `v1/macs/${mac.udid}/power`, { action: "cut_mains" }),
  restore_mains: (mac) => api("POST", `v1/macs/${mac.udid}/power`, { action: "restore_mains" }),
  offline: (mac) => api("POST", `v1/macs/${mac.udid}/network`, { online: false }),
  online: (mac) => api("POST", `v1/macs/${mac.udid}/network`, { online: true }),
};

element("bulk-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const what = BULK[element("bulk").value], waiting = [...shown], all = waiting.length, failures = [];
  if (all > 1 && !confirm(`${element("bulk").selectedOptions[0].text}: ${count(all)} Macs?`)) return;
  attempt(async () => {
    const work = async () => {
      for (let mac = waiting.shift(); mac; mac = waiting.shift()) {
        try { await what(mac); } catch (error) { failures.push(`${mac.name}: ${error.message}`); }
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    if (failures.length) throw new Error(`${count(failures.length)} of ${count(all)} failed; the first: ${failures[0]}`);
  }, `Done for ${count(all)} Macs.`);
});

element("add-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = (id) => element(`add-${id}`).value.trim();
  attempt(() => api("POST", "v1/macs", {
    count: Number(value("count")), os: value("os") || null, model: value("model") || null, seed: value("seed") || null,
    segment_size: value("segment") ? Number(value("segment")) : null,
    roles: value("roles") ? value("roles").split(" ") : null,
  }), "Macs added.");
});
