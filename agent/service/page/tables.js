// Operations, rules, the clock and the list of events.

import { api } from "./api.js";
import { known } from "./fleet.js";
import { selectedMac, select } from "./mac.js";
import { attempt, button, count, element, framed, make, put, time, words } from "./parts.js";

const LOOKS = 60;            // in a curve
const MOST_EVENTS = 200;     // in the list
const BETWEEN_DRAWS_MS = 200;
const SVG = "http://www.w3.org/2000/svg";

let before = null;
const rates = new Map();     // by operation, the last ones

export function startAgain() { before = null; rates.clear(); }

export async function readOperations() {
  const results = await api("GET", "v1/results"), passed = before ? results.seconds - before.seconds : 0;
  if (passed < 0) startAgain();
  const rows = Object.entries(results.operations).map(([name, one]) => {
    const rate = before && passed > 0 ? Math.max(0, (one.count - (before.operations[name]?.count ?? 0)) / passed) : 0;
    rates.set(name, [...(rates.get(name) ?? []), rate].slice(-LOOKS));
    const row = make("tr"), drawn = make("td"), { p50, p95, p99 } = one.latency_ms ?? {}, head = make("th", words(name));
    head.scope = "row";
    drawn.append(curve(rates.get(name)));
    row.append(head, make("td", count(one.count), "number"), make("td", rate.toFixed(1), "number"), drawn,
      make("td", count(one.errors), one.errors ? "number bad" : "number"), ...[p50, p95, p99].map((each) => make("td", ms(each), "number")));
    return row;
  });
  before = results;
  element("operations").replaceChildren(...rows);
  element("no-operations").hidden = rows.length > 0;
  put(element("errors"), JSON.stringify(results.errors), () => results.errors.slice(0, 20).map(errorLine));
  element("errors-box").hidden = !results.errors.length;
}

function errorLine(error) {
  const item = make("li");
  item.append(make("b", `${count(error.count ?? 1)} × `), [error.operation, error.kind].filter(Boolean).map(words).join(": "),
    make("span", ` ${error.message ?? error.example ?? ""}`, "muted"));
  return item;
}

const ms = (value) => (value === null || value === undefined ? "" : value >= 100 ? count(Math.round(value)) : value.toPrecision(3));

function curve(values) {
  const picture = document.createElementNS(SVG, "svg"), line = document.createElementNS(SVG, "polyline");
  const top = Math.max(...values, 1e-9);
  picture.setAttribute("viewBox", "0 0 120 20");
  picture.setAttribute("class", "curve");
  picture.setAttribute("aria-hidden", "true");
  line.setAttribute("points", values.map((each, index) => `${120 - 2 * (values.length - 1 - index)},${19 - (18 * each) / top}`).join(" "));
  picture.append(line);
  return picture;
}

// Rules.

export async function readRules() {
  const rules = await api("GET", "v1/rules");
  put(element("rules"), JSON.stringify(rules), () => rules.map(({ rule, matches, hits }) => {
    const row = make("tr"), last = make("td"), head = make("th", rule.id);
    head.scope = "row";
    last.append(button("Remove", `Remove ${rule.id}`, () => attempt(async () => {
      await api("DELETE", `v1/rules/${rule.id}`);
      await readRules();
    }, `${rule.id} is removed.`)));
    row.append(head, make("td", [words(rule.on), rule.type].filter(Boolean).join(" ")), make("td", words(rule.do) + limits(rule)),
      make("td", macsOf(rule)), make("td", count(matches), "number"), make("td", count(hits), "number"), last);
    return row;
  }));
  element("no-rules").hidden = rules.length > 0;
  element("rules-clear").hidden = rules.length < 2;
}

const limits = (rule) => [
  rule.limit ? ` ${count(rule.limit)} in` : "", rule.seconds ? ` ${rule.seconds} s` : "", rule.at ? ` ${words(rule.at)}` : "", rule.times ? `, ${rule.times === 1 ? "once" : `${count(rule.times)} times`} a Mac` : "",
  rule.every ? `, every ${count(rule.every)}` : "", rule.probability < 1 ? `, probability ${rule.probability}` : "",
].join("");

function macsOf(rule) {
  const parts = [
    ...(rule.macs ?? []).map((each) => known(each)?.name ?? each), rule.role ?? "", rule.os ? `macOS ${rule.os}` : "",
    rule.segment === null || rule.segment === undefined ? "" : `segment ${rule.segment}`, rule.share < 1 ? `share ${rule.share}` : "",
  ].filter(Boolean);
  return parts.join(", ") || "all";
}

element("rules-clear").addEventListener("click", () => attempt(async () => { await api("DELETE", "v1/rules"); await readRules(); }, "Every rule is removed."));

element("rule-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = (id) => element(`rule-${id}`).value.trim();
  attempt(async () => {
    let more = {};
    try { more = JSON.parse(value("more") || "{}"); } catch (error) { throw new Error(`Expected a JSON object in Other keys, found none (${error.message}).`); }
    const rule = { on: value("on"), do: value("do"), ...more };
    if (value("type")) rule.type = value("type");
    if (value("times")) rule.times = Number(value("times"));
    if (value("macs") === "selected") {
      if (!selectedMac()) throw new Error("Expected a selected Mac, found none. Select one, or choose all Macs.");
      rule.macs = [selectedMac()];
    } else if (value("macs")) rule.role = value("macs");
    await api("POST", "v1/rules", rule);
    await readRules();
  }, "The rule is added.");
});

// The operations and effects that a rule may have, as the service describes them.
export async function readChoices() {
  const { properties } = (await api("GET", "openapi.json")).components.schemas.Rule;
  for (const name of ["on", "do"]) {
    element(`rule-${name}`).replaceChildren(...properties[name].enum.map((each) => {
      const option = make("option", words(each));
      option.value = each;
      return option;
    }));
  }
  element("rule-on").value = "command";
  element("rule-do").value = "not_now";
}

// The clock.

export function showClock(clock) {
  const { seconds, pending, next } = clock;
  element("clock").textContent = `${seconds.toFixed(1)} s; ${count(pending)} timers` + (next === null ? "" : `, next in ${next.toFixed(1)} s`);
}

// Events: the list changes a few times a second, so that it can be read and costs little.

let waiting = [];
const BAD = new Set(["protocol_error", "enroll_failed", "refused", "worker_lost"]);

export function addEvents(events) {
  if (element("events-paused").checked) return;
  waiting.push(...(element("events-bad").checked ? events.filter(isBad) : events));
  if (waiting.length > MOST_EVENTS) waiting = waiting.slice(-MOST_EVENTS);
  if (waiting.length) drawEvents();
}

const isBad = (event) => BAD.has(event.kind) || (event.kind === "session_ended" && Boolean(event.data.error));

const drawEvents = framed(() => {
  const list = element("events");
  list.prepend(...waiting.reverse().map(eventLine));
  waiting = [];
  while (list.childElementCount > MOST_EVENTS) list.lastElementChild.remove();
  element("no-events").hidden = true;
}, BETWEEN_DRAWS_MS);

function eventLine(event) {
  const item = make("li", "", isBad(event) ? "bad" : "");
  item.append(make("time", time(event.at)), " ", make("span", words(event.kind), "tag"), " ");
  if (event.udid) item.dataset.udid = event.udid;
  item.append(event.text);
  return item;
}

element("events").addEventListener("click", (event) => {
  const udid = event.target.closest("li")?.dataset.udid;
  if (udid && known(udid) && getSelection().isCollapsed) select(udid);
});
