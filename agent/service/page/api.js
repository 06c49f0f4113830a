// The control API: requests with the token, and the events as they happen.

const SILENT_MS = 45000;   // the service sends something every 15 s
const RETRY_MS = 1000;

let token = "", following = null;

export function setToken(text) {
  token = text;
  sessionStorage.setItem("token", text);
}

export function storedToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) history.replaceState(null, "", location.pathname);
  return given ?? sessionStorage.getItem("token") ?? "";
}

export class NoToken extends Error {}

async function send(method, path, body, signal) {
  const headers = { Authorization: `Bearer ${token}` };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method, headers, signal, body: body === undefined ? undefined : JSON.stringify(body) });
  if (response.ok) return response;
  if (response.status === 401) throw new NoToken("Expected the token of this service, found another one. Enter it again.");
  const problem = await response.json().catch(() => ({ title: `The service answered with status ${response.status}.` }));
  throw new Error(problem.detail || problem.title);
}

export async function api(method, path, body) {
  const response = await send(method, path, body);
  return response.status === 204 ? null : response.json();
}

export async function bytes(path) {
  return (await send("GET", path)).blob();
}

// Calls took(events) with the events after that number, several at a time, and state(text, isConnected) when the
// connection changes; connects again, after renew(), until it is called anew. renew() tells after which event.
export async function follow(renew, took, state) {
  following?.abort();
  const mine = new AbortController();
  following = mine;
  for (let first = true; !mine.signal.aborted; first = false) {
    const connection = new AbortController(), end = () => connection.abort();
    mine.signal.addEventListener("abort", end);
    let timer = 0;
    const alive = () => { clearTimeout(timer); timer = setTimeout(end, SILENT_MS); };
    try {
      const after = await renew(first);
      const response = await send("GET", `v1/events?after=${after}`, undefined, connection.signal);
      state("Connected", true);
      await read(response.body, alive, took);
    } catch (error) {
      if (error instanceof NoToken) { state("Not connected", false); return error; }
    }
    clearTimeout(timer);
    mine.signal.removeEventListener("abort", end);
    if (mine.signal.aborted) break;
    state("Connection lost; connecting again", false);
    await new Promise((resolve) => { setTimeout(resolve, RETRY_MS); });
  }
  return null;
}

async function read(body, alive, took) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ;) {
    alive();
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    const events = [];
    for (const block of blocks) {
      const line = block.split("\n").find((each) => each.startsWith("data: "));
      if (line) events.push(JSON.parse(line.slice(6)));
    }
    if (events.length) took(events);
  }
}
