// One Mac: what it is, its answers, and what can be done with it.

import { api, bytes } from "./api.js";
import { drop, keep, known } from "./fleet.js";
import { mark } from "./grid.js";
import { attempt, element, make, put, say, state, time, words } from "./parts.js";

const SOON_MS = 300;
let selected = "", timer = 0, isFromTable = false;

export const selectedMac = () => selected;

export async function select(udid, focus = false) {
  selected = udid;
  isFromTable = focus;
  mark(udid);
  if (!await attempt(read)) return;
  if (focus) element("detail-title").focus();
  element("detail-title").scrollIntoView({ block: "nearest" });
}

// The focus goes back to the row of the table that it came from.
export function close() {
  const closed = selected;
  selected = "";
  mark("");
  element("detail").hidden = true;
  if (isFromTable) element("list").querySelector(`[data-udid="${closed}"]`)?.focus();
  isFromTable = false;
}

export function follow(events) {
  if (!selected || timer) return;
  if (events.some((event) => event.udid === selected || event.kind === "reset")) timer = setTimeout(readAgain, SOON_MS);
}

export async function readAgain() {
  timer = 0;
  if (!selected) return;
  try { await read(); } catch (error) {
    if (!(error instanceof TypeError)) close();   // removed, or of another service; a TypeError is no answer at all
  }
}

async function read() {
  const mac = await api("GET", `v1/macs/${selected}`);
  if (mac.udid !== selected) return;
  keep(mac);
  show(mac);
}

function show(mac) {
  element("detail").hidden = false;
  element("detail-title").textContent = `Mac ${mac.number}: ${mac.name}`;
  const facts = {
    State: state(mac.state), Power: words(mac.power), Enrolled: mac.enrolled ? "yes" : "no", Connected: mac.connected ? "yes" : "no",
    LOM: mac.lom ? "set up" : "not set up", Segment: `${mac.segment}, ${mac.roles.join(" and ")}`,
    Model: mac.model, macOS: `${mac.os_version} (${mac.build_version})`, Boots: String(mac.boots),
    "Serial number": mac.serial_number, UDID: mac.udid, "DNS name": mac.dns_name, Addresses: mac.lom_addresses.join(", "),
    "Push topic": mac.topic || "none",
    Profiles: mac.profiles.map((each) => `${each.name || each.identifier} (${each.payload_types.join(", ")})`).join("; ") || "none",
    "Pending result": mac.pending ? `${mac.pending.request_type}: ${mac.pending.status}` : "none", "Last error": mac.last_error || "none",
  };
  put(element("detail-facts"), JSON.stringify({ ...facts, State: mac.state }), () => Object.entries(facts).flatMap(([name, value]) => {
    const meaning = make("dd");
    meaning.append(value);
    if (name === "Last error" && mac.last_error) meaning.className = "bad";
    return [make("dt", name), meaning];
  }));
  const can = {
    on: mac.power === "off", off: mac.power === "on", reset: mac.power === "on", pull_the_plug: !["off", "no_mains"].includes(mac.power),
    cut_mains: mac.power !== "no_mains", restore_mains: mac.power === "no_mains",
  };
  for (const each of element("detail-actions").querySelectorAll("[data-power]")) allow(each, can[each.dataset.power]);
  for (const each of element("detail-actions").querySelectorAll("[data-online]")) allow(each, mac.online !== (each.dataset.online === "true"));
  for (const name of ["connect", "unenroll"]) allow(element("detail-actions").querySelector(`[data-do=${name}]`), mac.enrolled);
  showExchanges(mac);
}

// Newest first. Those that are there already stay, with what is open in them, the focus and the place.
function showExchanges(mac) {
  const list = element("exchanges"), keys = new Set(mac.exchanges.map((each) => keyOf(mac, each)));
  for (const each of [...list.children]) if (!keys.has(each.dataset.key)) each.remove();
  const there = new Set([...list.children].map((each) => each.dataset.key));
  list.prepend(...mac.exchanges.filter((each) => !there.has(keyOf(mac, each))).map((each) => exchange(mac, each)).reverse());
  element("no-exchanges").hidden = mac.exchanges.length > 0;
}

const keyOf = (mac, one) => `${mac.udid} ${one.number} ${one.at}`;

// A button that has the focus keeps it: it is marked as disabled, and pressing it does nothing.
function allow(node, allowed) { node.setAttribute("aria-disabled", String(!allowed)); }

function exchange(mac, one) {
  const item = make("li"), box = make("details"), head = make("summary");
  const what = [one.kind === one.message_type ? "" : words(one.kind), one.message_type, one.answer_status, one.request_type].filter(Boolean).join(" ");
  const failed = Boolean(one.error) || one.status >= 400;
  head.append(make("time", time(one.at)), " ", make("b", what), ` ${Math.round(one.seconds * 1000)} ms `,
    make("span", one.error ? "failed" : String(one.status ?? "no answer"), failed ? "bad" : "muted"));
  for (const rule of one.rules) head.append(" ", make("span", rule, "tag"));
  item.dataset.key = keyOf(mac, one);
  box.append(head);
  box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) fill(box, one); });
  item.append(box);
  return item;
}

function fill(box, one) {
  box.append(make("p", `${one.method} ${one.url}`, "muted"));
  if (one.error) box.append(make("p", one.error, "bad"));
  for (const [name, body] of [["Request", one.request], ["Response", one.response]]) {
    const text = make("pre", body === null || body === "" ? "empty" : typeof body === "string" ? body : JSON.stringify(body, null, 2));
    text.tabIndex = 0;
    text.setAttribute("role", "region");
    text.setAttribute("aria-label", `${name} of exchange ${one.number}`);
    box.append(make("h4", name), text);
  }
}

const REQUESTS = {
  connect: (path) => api("POST", `${path}/connect`), unenroll: (path) => api("POST", `${path}/unenroll`),
  reset: (path) => api("POST", `${path}/reset`), clear: () => api("DELETE", `v1/exchanges?mac=${selected}`),
  cut: () => mains("cut_mains"), restore: () => mains("restore_mains"),
  profile: async (path) => {
    const link = make("a");
    link.href = URL.createObjectURL(await bytes(`${path}/lom-profile`));
    link.download = "lom.mobileconfig";
    link.click();
    URL.revokeObjectURL(link.href);
  },
  remove: async (path) => { await api("DELETE", path); drop(selected); close(); },
};

async function mains(action) {
  for (const mac of await api("POST", `v1/segments/${known(selected).segment}/mains`, { action })) keep(mac);
}

element("detail-actions").addEventListener("click", (event) => {
  const pressed = event.target.closest("button");
  if (!pressed || !selected || pressed.getAttribute("aria-disabled") === "true") return;
  const { power, online, do: name } = pressed.dataset, path = `v1/macs/${selected}`;
  attempt(async () => {
    if (power) await api("POST", `${path}/power`, { action: power });
    else if (online) await api("POST", `${path}/network`, { online: online === "true" });
    else await REQUESTS[name](path);
    if (selected) await read();
  }, `${pressed.textContent}: done.`);
});

element("enroll-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const udid = selected;
  say("Enrolling…");
  attempt(async () => {
    try { await api("POST", `v1/macs/${udid}/enroll`, { url: element("enroll-url").value || null }); }
    finally { if (selected === udid) await read(); }
  }, "Enrolled.");
});

element("detail-close").addEventListener("click", close);
element("detail").addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
