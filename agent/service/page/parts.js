// Small parts of the page.

export const element = (id) => document.getElementById(id);
export const count = (number) => number.toLocaleString("en");
export const time = (at) => new Date(at * 1000).toISOString().slice(11, 23);
export const words = (text) => text.replaceAll("_", " ");

export function make(tag, text = "", kind = "") {
  const found = document.createElement(tag);
  if (text !== "") found.textContent = text;
  if (kind) found.className = kind;
  return found;
}

export function button(text, label, action) {
  const found = make("button", text);
  found.type = "button";
  found.setAttribute("aria-label", label);
  found.addEventListener("click", action);
  return found;
}

export function state(name, tag = "span") {
  const found = make(tag, words(name), "state");
  found.dataset.state = name;
  return found;
}

// Replaces the children of a node, unless they would be the same: focus and selection stay.
export function put(node, key, children) {
  if (node.dataset.key === key) return;
  node.dataset.key = key;
  const focused = node.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  node.replaceChildren(...children());
  if (focused) [...node.querySelectorAll("[aria-label]")].find((each) => each.getAttribute("aria-label") === focused)?.focus();
}

export function say(text, isError = false) {
  element("alert").textContent = isError ? text : "";
  element("status").textContent = isError ? "" : text;
}

// Runs a request of the user: its button does nothing while it runs, and its error is shown.
export async function attempt(what, done = "") {
  const pressed = document.activeElement;
  try {
    pressed?.setAttribute("aria-busy", "true");
    await what();
    say(done);
    return true;
  } catch (error) {
    say(error.message, true);
    return false;
  } finally {
    pressed?.removeAttribute("aria-busy");
  }
}

// Calls what() in the next frame, once, however often it is asked for; then not again for a pause.
export function framed(what, pauseMs = 0) {
  let asked = false, earliest = 0;
  const draw = () => { asked = false; earliest = performance.now() + pauseMs; what(); };
  return () => {
    if (asked) return;
    asked = true;
    const wait = earliest - performance.now();
    if (wait > 0) setTimeout(() => requestAnimationFrame(draw), wait); else requestAnimationFrame(draw);
  };
}
