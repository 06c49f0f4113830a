// The page of `lom-agent serve`: it reads the fleet once, then follows the events; buttons are requests to the API.

import { NoToken, api, follow, setToken, storedToken } from "./api.js";
import * as fleet from "./fleet.js";
import * as mac from "./mac.js";
import { attempt, element, make, say } from "./parts.js";
import * as tables from "./tables.js";

const LOOK_MS = 2000;       // between two looks at operations, rules and clock

let lastEvent = 0, pid = 0, hasManualClock = false, looking = false, labURL = "";

fleet.whenSelected(mac.select);

function happened(events) {
  lastEvent = events.at(-1).number;
  fleet.follow(events);
  mac.follow(events);
  tables.addEvents(events);
  if (events.some((event) => event.kind === "reset" && !event.udid)) { tables.startAgain(); look(); }
  const lost = events.find((event) => event.kind === "worker_lost");
  if (lost) attempt(async () => describe(await api("GET", "v1"))).then(() => say(lost.text, true));
}

function connection(text, isConnected) {
  element("connection").textContent = text;
  element("connection").dataset.connected = isConnected;
}

// Reads everything: what follows in events is after it. Another process has other numbers.
async function renew(isFirst) {
  const info = await api("GET", "v1");
  if (isFirst || info.pid !== pid) { lastEvent = info.last_event; tables.startAgain(); await tables.readChoices(); describe(info); }
  pid = info.pid;
  await fleet.readFleet();
  await mac.readAgain();
  await look();
  return lastEvent;
}

function describe(info) {
  hasManualClock = info.clock === "manual";
  element("clock-form").hidden = !hasManualClock;
  if (element("enroll-url").value === labURL) element("enroll-url").value = labURL = info.lab?.enroll_url ?? "";
  const facts = { Version: info.version, Seed: info.seed, "MDM server": info.lab?.url, APNs: info.apns?.url, "State file": info.state_file,
    Workers: info.workers > 1 && info.workers, "Lost workers": info.lost_workers.join(" ") };
  element("service").replaceChildren(...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
}

async function look() {
  if (looking) return;
  looking = true;
  try {
    await Promise.all([tables.readOperations(), tables.readRules()]);
    if (hasManualClock) tables.showClock(await api("GET", "v1/clock"));
  } finally { looking = false; }
}

async function begin() {
  const error = await follow(renew, happened, connection);
  if (error) { say(error.message, true); login(); }
}

function login() {
  if (!element("login").open) element("login").showModal();
}

element("login-form").addEventListener("submit", () => {
  setToken(element("token").value.trim());
  element("token").value = "";
  say("");
  begin();
});

element("clock-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => tables.showClock(await api("POST", "v1/clock", { advance: Number(element("advance").value) })));
});

element("reset-button").addEventListener("click", () => {
  if (!confirm("Remove the Macs that were added, put the others back to their start, and forget rules, exchanges, events and results?")) return;
  attempt(async () => { await api("POST", "v1/reset"); mac.close(); element("events").replaceChildren(); await fleet.readFleet(); }, "Everything is reset.");
});

element("remove-button").addEventListener("click", () => {
  if (!confirm("Remove every Mac, without a CheckOut?")) return;
  attempt(async () => { await api("DELETE", "v1/macs"); mac.close(); await fleet.readFleet(); }, "Every Mac is removed.");
});

setInterval(() => {
  if (!document.hidden && element("connection").dataset.connected === "true") look().catch((error) => { if (error instanceof NoToken) login(); });
}, LOOK_MS);

const token = storedToken();
if (token) { setToken(token); begin(); } else login();
