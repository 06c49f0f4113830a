// The page of `lom-agent serve`. It reads the fleet once, then follows the events; buttons are requests to the API.

const STATES = ["new", "idle", "session", "booting", "off", "left", "offline"];
const PAGE_ROWS = 50;       // rows of the table at a time
const MOST_EVENTS = 200;    // in the list
const CELL = 12, GAP = 2, BLOCK_GAP = 8;
const SLOW_MS = 2000;       // between two looks at operations and rules
const RESYNC_MS = 30000;    // between two readings of the whole fleet

const element = (id) => document.getElementById(id);
const macs = new Map();     // by UDID, in the order of their numbers
let token = "", selected = "", place = 0, lastEvent = 0, shown = [], cells = [], before = null;
let redraw = false, relook = false;

// The API.

async function api(method, path, body) {
  const response = await fetch(path, {
    method,
    headers: { Authorization: `Bearer ${token}`, ...(body ? { "Content-Type": "application/json" } : {}) },
    body: body ? JSON.stringify(body) : undefined,
  });
  if (response.status === 401) { login(); throw new Error("Expected a valid token, found another one."); }
  if (response.status === 204) return null;
  const found = await response.json();
  if (!response.ok) throw new Error(found.detail ? `${found.title}: ${found.detail}` : found.title);
  return found;
}

const say = (text) => { element("message").textContent = text; };

async function attempt(what) {
  try { await what(); say(""); } catch (error) { say(error.message); }
}

function login() {
  const dialog = element("login");
  if (!dialog.open) dialog.showModal();
}

element("login-form").addEventListener("submit", () => {
  token = element("token").value.trim();
  sessionStorage.setItem("token", token);
  attempt(begin);
});

// The fleet.

async function readFleet() {
  const found = new Map();
  for (let after = -1; ;) {
    const page = await api("GET", `v1/macs?after=${after}&limit=1000`);
    if (!page.length) break;
    for (const mac of page) found.set(mac.udid, mac);
    after = page[page.length - 1].number;
  }
  macs.clear();
  for (const [udid, mac] of found) macs.set(udid, mac);
  changed();
}

async function readMac(udid) {
  try { macs.set(udid, await api("GET", `v1/macs/${udid}`)); } catch { macs.delete(udid); }
  changed();
}

function changed() {
  if (!redraw) { redraw = true; requestAnimationFrame(() => { redraw = false; draw(); }); }
}

function matching() {
  const text = element("filter-text").value.trim().toLowerCase(), state = element("filter-state").value;
  const segment = element("filter-segment").value, role = element("filter-role").value;
  const os = element("filter-os").value.trim();
  const found = [];
  for (const mac of macs.values()) {
    if (state && mac.state !== state) continue;
    if (segment !== "" && mac.segment !== Number(segment)) continue;
    if (role && !mac.roles.includes(role)) continue;
    if (os && mac.os_version !== os && !mac.os_version.startsWith(`${os}.`)) continue;
    if (text && ![mac.udid, mac.serial_number, mac.name, mac.model].some((one) => one.toLowerCase().includes(text))) continue;
    found.push(mac);
  }
  return found;
}

function draw() {
  shown = matching();
  const counts = Object.fromEntries(STATES.map((state) => [state, 0]));
  for (const mac of shown) counts[mac.state] += 1;
  element("legend").replaceChildren(...STATES.map((state) => {
    const item = document.createElement("li");
    item.dataset.state = state;
    item.textContent = `${state} ${counts[state].toLocaleString("en")}`;
    return item;
  }));
  drawGrid();
  if (element("list-box").open) drawList();
  const all = [...macs.values()];
  element("summary").textContent =
    `${all.length.toLocaleString("en")} Macs, ${all.filter((mac) => mac.enrolled).length.toLocaleString("en")} enrolled`;
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries([...STATES, "accent"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

function drawGrid() {
  const canvas = element("grid"), width = Math.max(200, element("grid-box").clientWidth - 16);
  const step = CELL + GAP, colour = colours();
  cells = [];
  let x = GAP, y = GAP, segment = null;
  for (const mac of shown) {
    if (segment !== null && mac.segment !== segment) x += BLOCK_GAP;
    if (x + CELL > width) { x = GAP; y += step; }
    segment = mac.segment;
    cells.push({ x, y, mac });
    x += step;
  }
  const height = y + step, ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio; canvas.height = height * ratio;
  canvas.style.width = `${width}px`; canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  for (const { x: left, y: top, mac } of cells) {
    context.fillStyle = colour[mac.state];
    context.fillRect(left, top, CELL, CELL);
    if (mac.roles.includes("controller")) { context.clearRect(left + 4, top + 4, 4, 4); }
    if (mac.udid === selected) {
      context.strokeStyle = colour.accent; context.lineWidth = 2; context.strokeRect(left - 1, top - 1, CELL + 2, CELL + 2);
    }
  }
}

function cellAt(event) {
  const box = element("grid").getBoundingClientRect();
  const x = event.clientX - box.left, y = event.clientY - box.top;
  return cells.find((cell) => x >= cell.x && x < cell.x + CELL + GAP && y >= cell.y && y < cell.y + CELL + GAP);
}

element("grid").addEventListener("click", (event) => { const cell = cellAt(event); if (cell) select(cell.mac.udid); });
element("grid").addEventListener("mousemove", (event) => {
  const cell = cellAt(event);
  if (cell) element("grid-tip").textContent = `${cell.mac.name}, macOS ${cell.mac.os_version}: ${cell.mac.state}, power ${cell.mac.power}`;
});

function cell(text, kind) {
  const found = document.createElement("td");
  found.textContent = text;
  if (kind) found.className = kind;
  return found;
}

function button(text, label, action) {
  const found = document.createElement("button");
  found.type = "button"; found.textContent = text; found.setAttribute("aria-label", label);
  found.addEventListener("click", action);
  return found;
}

function drawList() {
  place = Math.min(place, Math.max(0, shown.length - 1));
  place -= place % PAGE_ROWS;
  const rows = shown.slice(place, place + PAGE_ROWS).map((mac) => {
    const row = document.createElement("tr"), name = cell("");
    name.append(button(mac.name, `Details of ${mac.name}`, () => select(mac.udid, true)));
    const state = cell(mac.state, "state");
    state.dataset.state = mac.state;
    row.append(cell(mac.number, "number"), name, cell(mac.os_version), cell(mac.segment, "number"), state, cell(mac.power));
    return row;
  });
  element("list").replaceChildren(...rows);
  element("list-place").textContent = shown.length
    ? `${place + 1} to ${Math.min(shown.length, place + PAGE_ROWS)} of ${shown.length}` : "none";
  element("list-before").disabled = place === 0;
  element("list-after").disabled = place + PAGE_ROWS >= shown.length;
}

element("list-box").addEventListener("toggle", drawList);
element("list-before").addEventListener("click", () => { place -= PAGE_ROWS; drawList(); });
element("list-after").addEventListener("click", () => { place += PAGE_ROWS; drawList(); });
element("filters").addEventListener("input", () => { place = 0; changed(); });
element("filters").addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("resize", changed);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);

// One Mac.

async function select(udid, focus = false) {
  selected = udid;
  await attempt(readDetail);
  if (focus) element("detail-title").focus();
  changed();
}

async function readDetail() {
  if (!selected) return;
  const mac = await api("GET", `v1/macs/${selected}`);
  element("detail").hidden = false;
  element("detail-title").textContent = `Mac ${mac.number}: ${mac.name}`;
  const facts = {
    UDID: mac.udid, "Serial number": mac.serial_number, Model: mac.model, macOS: `${mac.os_version} (${mac.build_version})`,
    Segment: `${mac.segment}, ${mac.roles.join(" and ")}`, State: mac.state, Power: mac.power,
    Enrolled: mac.enrolled ? `yes, topic ${mac.topic}` : "no", Connected: mac.connected ? "yes" : "no",
    LOM: mac.lom ? "set up" : "not set up", "DNS name": mac.dns_name, Addresses: mac.lom_addresses.join(", "), Boots: mac.boots,
    Profiles: mac.profiles.map((profile) => `${profile.name} (${profile.identifier})`).join("; ") || "none",
    "Pending result": mac.pending ? `${mac.pending.request_type} ${mac.pending.command_uuid}` : "none",
    "Last error": mac.last_error || "none",
  };
  element("detail-facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => {
    const term = document.createElement("dt"), meaning = document.createElement("dd");
    term.textContent = name; meaning.textContent = value;
    return [term, meaning];
  }));
  const open = new Set([...element("exchanges").querySelectorAll("details[open]")].map((one) => one.dataset.number));
  element("exchanges").replaceChildren(...mac.exchanges.map((one) => exchange(one, open)).reverse());
}

function exchange(one, open) {
  const item = document.createElement("li"), box = document.createElement("details"), head = document.createElement("summary");
  const what = one.message_type || one.answer_status || one.method, outcome = one.error || one.status || "no answer";
  head.textContent = `${time(one.at)} ${one.kind} ${what} ${one.request_type} → ${outcome} (${Math.round(one.seconds * 1000)} ms)` +
    (one.rules.length ? ` [${one.rules.join(", ")}]` : "");
  if (one.error || one.status >= 400) head.className = "bad";
  box.dataset.number = one.number;
  box.open = open.has(String(one.number));
  box.append(head);
  for (const [name, body] of [["Request", one.request], ["Response", one.response]]) {
    if (body === null || body === "") continue;
    const title = document.createElement("div"), text = document.createElement("pre");
    title.textContent = name;
    text.textContent = typeof body === "string" ? body : JSON.stringify(body, null, 1);
    box.append(title, text);
  }
  item.append(box);
  return item;
}

const time = (at) => new Date(at * 1000).toISOString().slice(11, 23);

element("detail-actions").addEventListener("click", (event) => {
  const data = event.target.dataset;
  if (!selected || event.target.tagName !== "BUTTON") return;
  attempt(async () => {
    if (data.power) await api("POST", `v1/macs/${selected}/power`, { action: data.power });
    else if (data.online) await api("POST", `v1/macs/${selected}/network`, { online: data.online === "true" });
    else if (data.do === "remove") {
      await api("DELETE", `v1/macs/${selected}`);
      macs.delete(selected); selected = ""; element("detail").hidden = true; changed();
      return;
    } else await api("POST", `v1/macs/${selected}/${data.do}`);
    await readDetail();
    await readMac(selected);
  });
});

element("enroll-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    await api("POST", `v1/macs/${selected}/enroll`, { url: element("enroll-url").value });
    await readDetail();
    await readMac(selected);
  });
});

element("add-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    const os = element("add-os").value.trim(), size = element("add-segment").value;
    await api("POST", "v1/macs", {
      count: Number(element("add-count").value), os: os || null, segment_size: size ? Number(size) : null,
    });
    await readFleet();
  });
});

element("reset-button").addEventListener("click", () => {
  if (window.confirm("Remove every Mac that was added, unenroll the others, and forget rules, exchanges and results?")) {
    attempt(async () => { await api("POST", "v1/reset"); await begin(); });
  }
});

element("advance-button").addEventListener("click", () => attempt(async () => {
  showClock(await api("POST", "v1/clock", { advance: Number(element("advance").value) }));
}));

function showClock(clock) {
  element("clock").textContent = `${clock.seconds.toFixed(1)} s, ${clock.pending} timers` +
    (clock.next === null ? "" : `, next in ${clock.next.toFixed(1)} s`);
}

// Operations and rules.

async function readSlow() {
  if (document.hidden || !token) return;
  const results = await api("GET", "v1/results"), names = Object.keys(results.operations);
  const rows = names.map((name) => {
    const one = results.operations[name], row = document.createElement("tr");
    const count = one.count ?? 0, earlier = before?.operations[name]?.count ?? 0;
    const rate = before && results.seconds > before.seconds ? (count - earlier) / (results.seconds - before.seconds) : 0;
    const latency = one.latency_ms ?? {};
    row.append(cell(name), cell(count, "number"), cell(Math.max(0, rate).toFixed(1), "number"),
      cell(one.errors ?? 0, one.errors ? "number bad" : "number"), cell(ms(latency.p50), "number"), cell(ms(latency.p99), "number"));
    return row;
  });
  element("operations").replaceChildren(...rows);
  before = results;
  const rules = await api("GET", "v1/rules");
  element("rules").replaceChildren(...rules.map(({ rule, matches, hits }) => {
    const row = document.createElement("tr"), last = cell("");
    last.append(button("Remove", `Remove ${rule.id}`, () => attempt(async () => {
      await api("DELETE", `v1/rules/${rule.id}`); await readSlow();
    })));
    const who = rule.macs?.length ? rule.macs.join(", ") : rule.role || (rule.os ? `macOS ${rule.os}` : "all");
    row.append(cell(rule.id), cell([rule.on, rule.type].filter(Boolean).join(" ")), cell(rule.do), cell(who),
      cell(matches, "number"), cell(hits, "number"), last);
    return row;
  }));
  if (!element("clock-box").hidden) showClock(await api("GET", "v1/clock"));
}

const ms = (value) => (value === null || value === undefined ? "" : value.toPrecision(3));

element("rule-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    let rule;
    try { rule = JSON.parse(element("rule-text").value); } catch (error) { throw new Error(`The rule is not valid JSON: ${error.message}`); }
    await api("POST", "v1/rules", rule);
    await readSlow();
  });
});

// Events.

const STATE_AFTER = { session_started: "session", session_ended: "idle", enrolled: "idle", unenrolled: "left" };

function happened(event) {
  lastEvent = Math.max(lastEvent, event.number);
  const list = element("events"), item = document.createElement("li");
  item.textContent = `${time(event.at)} ${event.kind} ${event.status} ${event.request_type} ${event.text}`;
  if (event.kind === "protocol_error" || event.kind === "enroll_failed") item.className = "bad";
  list.prepend(item);
  while (list.children.length > MOST_EVENTS) list.lastChild.remove();
  if (event.kind === "added" || event.kind === "removed" || event.kind === "reset") { scheduleRead(); return; }
  const mac = macs.get(event.udid);
  if (!mac) return;
  if (event.kind === "power") { mac.power = event.status; mac.state = powerState(mac); }
  else if (event.kind === "network") { scheduleRead(); }
  else if (STATE_AFTER[event.kind]) {
    mac.state = STATE_AFTER[event.kind];
    mac.enrolled = event.kind === "unenrolled" ? false : event.kind === "enrolled" ? true : mac.enrolled;
  }
  if (event.udid === selected && !relook) {
    relook = true;
    setTimeout(() => { relook = false; attempt(readDetail); }, 300);
  }
  changed();
}

function powerState(mac) {
  if (mac.power === "on") return mac.enrolled ? "idle" : "new";
  return mac.power === "booting" ? "booting" : "off";
}

let reading = null;
function scheduleRead() {
  reading ??= setTimeout(() => { reading = null; attempt(readFleet); }, 300);
}

async function follow() {
  for (;;) {
    try {
      const response = await fetch(`v1/events?after=${lastEvent}`, { headers: { Authorization: `Bearer ${token}` } });
      if (!response.ok) throw new Error(`The events cannot be followed: status ${response.status}.`);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ;) {
        const { done, value } = await reader.read();
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const data = part.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
          if (data) happened(JSON.parse(data));
        }
      }
    } catch (error) { say(error.message); }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

let following = false;
async function begin() {
  if (!token) { login(); return; }
  const info = await api("GET", "v1");
  element("clock-box").hidden = info.clock !== "manual";
  if (info.lab) element("enroll-url").value = info.lab.enroll_url;
  lastEvent = info.last_event;
  before = null;
  await readFleet();
  await readSlow();
  if (!following) {
    following = true;
    follow();
    setInterval(() => attempt(readSlow), SLOW_MS);
    setInterval(() => { if (!document.hidden) attempt(readFleet); }, RESYNC_MS);
  }
}

token = new URLSearchParams(location.hash.slice(1)).get("token") ?? sessionStorage.getItem("token") ?? "";
if (token) { sessionStorage.setItem("token", token); history.replaceState(null, "", location.pathname); }
attempt(begin);
