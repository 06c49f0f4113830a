// What a reader does with the page's charts: values under the pointer, lines hidden and shown, zoom. The charts are in
// the page as drawing.py drew them; their values are read from the paths. Ticks are those of axes.py.
(() => {
  "use strict";
  const HEADROOM = 0.04;
  const HEADROOM_OF_BANDS = 0.14;
  const MOST_TIMES = 8;
  const TIMES = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
  const LEAST_DRAG = 5; // pixels
  const root = document.documentElement;
  const buttons = [...document.querySelectorAll(".legend button")];
  const hidden = new Set();

  function element(name, className, text = "") {
    const made = document.createElement(name);
    made.className = className;
    made.textContent = text;
    return made;
  }

  // Words

  const short = (value) => String(Number(value.toPrecision(3)));
  const inSeconds = (s) => (s >= 0.9999 ? `${short(s)} s` : s >= 0.9999e-3 ? `${short(s * 1e3)} ms` : `${short(s * 1e6)} µs`);
  const many = (value) => (value >= 0.9999e6 ? `${short(value * 1e-6)} M` : value >= 0.9999e3 ? `${short(value * 1e-3)} k` : short(value));
  const counted = (value) => Number(value.toPrecision(4)).toLocaleString("en");

  function wordsOf(value, unit) {
    if (unit === "share") return `${short(value * 100)} %`;
    if (!value) return "0";
    return unit === "seconds" ? inSeconds(value) : many(value);
  }

  function exact(value, unit) {
    if (unit === "count") return counted(value);
    return unit === "rate" ? `${counted(value)}/s` : wordsOf(value, unit);
  }

  function clock(seconds) {
    const two = (number) => String(number).padStart(2, "0");
    const [hour, minute, second] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, Math.round(seconds) % 60];
    return hour ? `${hour}:${two(minute)}:${two(second)}` : `${minute}:${two(second)}`;
  }

  // Axes

  function times(first, last) {
    const most = TIMES[TIMES.length - 1];
    const step = TIMES.find((each) => last - first <= each * MOST_TIMES) || most * Math.ceil((last - first) / (most * MOST_TIMES));
    const ticks = [];
    for (let number = Math.ceil(first / step); number * step <= last; number++) {
      ticks.push({ place: number * step, words: clock(number * step), minor: number % 2 !== 0 });
    }
    return { first, last, ticks };
  }

  function linear(most, unit, height, headroom) {
    const last = most * (1 + headroom);
    const rough = last / Math.max(2, height / 30);
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [power, 2 * power, 5 * power, 10 * power].find((nice) => rough <= nice);
    const ticks = [];
    for (let number = 0; number * step <= most * (1 + HEADROOM); number++) ticks.push({ place: number * step, words: wordsOf(number * step, unit) });
    return { first: 0, last, ticks };
  }

  function decades(least, most, height, headroom) {
    const first = Math.log10(least) - 0.1;
    const last = Math.log10(most) + 0.1;
    const room = height / (last - first);
    const steps = room > 75 ? [1, 2, 5] : room > 45 ? [1, 3] : [1];
    const ticks = [];
    for (let power = -7; power < 6; power += room > 16 ? 1 : 2) {
      for (const step of steps) ticks.push({ place: Math.log10(step * 10 ** power), words: inSeconds(step * 10 ** power) });
    }
    return { first, last: last + (last - first) * headroom, ticks: ticks.filter((tick) => first <= tick.place && tick.place <= last) };
  }

  // Charts

  function points(d) {
    const [xs, ys] = [[], []];
    let [x, y] = [0, 0];
    const put = () => {
      xs.push(x);
      ys.push(y);
    };
    for (const [, command, text] of d.matchAll(/([A-Zh])([^A-Zh]*)/g)) {
      const numbers = text.trim().split(/\s+/).map(Number);
      if (command === "H") [x] = numbers;
      if (command === "V") {
        [y] = numbers;
        put();
      }
      if (command === "h" || command === "H" || command === "V") continue;
      for (let index = 0; index < numbers.length; index += 2) {
        [x, y] = [numbers[index], numbers[index + 1]];
        put();
      }
    }
    return { xs, ys };
  }

  function read(figure) {
    const area = figure.querySelector(".area");
    const { chart, unit, height, threshold, time, log, stacked } = figure.dataset;
    const [left, top, width, tall] = area.querySelector("svg").getAttribute("viewBox").split(" ").map(Number);
    const made = {
      name: chart, unit, area, height: Number(height), isOverTime: time !== undefined, isLogarithmic: log !== undefined,
      isStacked: stacked !== undefined, threshold: threshold === undefined ? null : Number(threshold),
      svg: area.querySelector("svg"), across: { first: left, last: left + width }, up: { first: -top - tall, last: -top },
      bands: [...area.querySelectorAll(".bands div")], cursor: element("div", "cursor"), tip: element("div", "tip"),
    };
    made.lines = [...area.querySelectorAll("[data-name]")].map((path) => ({ path, name: path.dataset.name, key: path.dataset.key, isSteps: !made.isOverTime }));
    if (made.isStacked) made.lines.reverse(); // they are painted from the uppermost area on
    made.whole = made.across;
    made.cursor.hidden = made.tip.hidden = true;
    area.append(made.cursor, made.tip);
    return made;
  }

  // The values of a line; of an area those of its own, from second 0 on.
  function values(line) {
    if (!line.xs) {
      const { values, width } = line.path.dataset;
      if (values) {
        line.ys = values.split(",").map((text) => (text === "" ? null : Number(text)));
        line.width = Number(width);
        line.xs = line.ys.map((_, index) => index * line.width);
      } else Object.assign(line, points(line.path.getAttribute("d")));
    }
    return line;
  }

  const charts = [...document.querySelectorAll("figure[data-chart]")].map(read);
  const overTime = charts.filter((chart) => chart.isOverTime);
  const visible = (chart) => chart.lines.filter((line) => !hidden.has(line.key));
  const fraction = (axis, place) => (place - axis.first) / (axis.last - axis.first);
  const percent = (axis, place) => `${100 * fraction(axis, place)}%`;

  function label(chart, selector, side, axis) {
    chart.area.querySelector(selector).replaceChildren(...axis.ticks.map((tick) => {
      const made = element("div", tick.minor ? "minor" : "");
      made.append(element("span", "", tick.words));
      made.style[side] = percent(axis, tick.place);
      return made;
    }));
  }

  function frame(chart) {
    const { across, up } = chart;
    chart.svg.setAttribute("viewBox", `${across.first} ${-up.last} ${across.last - across.first} ${up.last - up.first}`);
  }

  // Stack the visible areas again; returns their upper edges.
  function stack(chart) {
    let below = null;
    return visible(chart).map((line) => {
      const { ys, width } = values(line);
      const lower = below;
      below = ys.map((y, index) => (y === null ? null : y + (lower ? lower[index] : 0)));
      const steps = below.map((y, index) => (y === null ? "" : `M${index * width} 0V${y}H${(index + 1) * width}V0Z`));
      line.path.setAttribute("d", steps.join(""));
      return below;
    });
  }

  // Hide and show lines, and fit the axis to those that are shown.
  function fit(chart) {
    chart.lines.forEach((line) => line.path.toggleAttribute("hidden", hidden.has(line.key)));
    const shown = chart.isStacked ? stack(chart) : visible(chart).map((line) => values(line).ys);
    let [least, most] = [Infinity, 0];
    for (const y of shown.flat()) {
      const value = chart.isLogarithmic ? 10 ** y : y;
      if (value > 0) [least, most] = [Math.min(least, value), Math.max(most, value)];
    }
    if (chart.threshold !== null) [least, most] = [Math.min(least, chart.threshold), Math.max(most, chart.threshold)];
    if (!most) [least, most] = [1, 1];
    const headroom = chart.bands.length ? HEADROOM_OF_BANDS : HEADROOM;
    chart.up = chart.isLogarithmic ? decades(least, most, chart.height, headroom) : linear(most, chart.unit, chart.height, headroom);
    label(chart, ".up", "bottom", chart.up);
    frame(chart);
  }

  function zoom(first, last) {
    for (const chart of overTime) {
      chart.across = times(first, last);
      label(chart, ".across", "left", chart.across);
      for (const band of chart.bands) {
        const [start, end] = [Math.max(Number(band.dataset.start), first), Math.min(Number(band.dataset.end), last)];
        band.hidden = end <= start;
        band.style.left = percent(chart.across, start);
        band.style.width = `${(100 * (end - start)) / (last - first)}%`;
      }
      frame(chart);
    }
  }

  // Values under the pointer

  function at(line, place) {
    const { xs, ys } = values(line);
    if (!xs.length || place > xs[xs.length - 1] + (line.width || 0)) return null;
    let [low, high] = [0, xs.length - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (xs[middle] <= place) low = middle;
      else high = middle - 1;
    }
    if (line.isSteps || line.width) return xs[low] <= place ? { x: xs[low], y: ys[low] } : null;
    const nearest = low + 1 < xs.length && xs[low + 1] - place < place - xs[low] ? low + 1 : low;
    return { x: xs[nearest], y: ys[nearest] };
  }

  function show(chart, event) {
    const box = chart.area.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const place = chart.across.first + share * (chart.across.last - chart.across.first);
    const reach = (4 * (chart.across.last - chart.across.first)) / box.width; // how far a point may be beside a gap
    let found = visible(chart).map((line) => ({ line, point: at(line, place) })).filter(({ point }) => point !== null && point.y !== null);
    if (chart.isOverTime) {
      const far = Math.min(Infinity, ...found.map(({ point }) => Math.abs(point.x - place)));
      found = found.filter(({ point }) => Math.abs(point.x - place) <= Math.max(far, reach));
    }
    const title = chart.isOverTime ? clock(place) : `1 in ${counted(10 ** place)} is slower`;
    const rows = found.flatMap(({ line, point }) => {
      const swatch = element("span", "swatch");
      swatch.style.background = line.path.style.getPropertyValue("--colour");
      return [swatch, element("i", "", line.name), element("span", "n", exact(chart.isLogarithmic ? 10 ** point.y : point.y, chart.unit))];
    });
    chart.tip.replaceChildren(element("b", "", title), ...rows);
    chart.cursor.style.left = `${100 * share}%`;
    chart.tip.style.left = share < 0.5 ? `calc(${100 * share}% + 12px)` : "auto";
    chart.tip.style.right = share < 0.5 ? "auto" : `calc(${100 - 100 * share}% + 12px)`;
    chart.cursor.hidden = false;
    chart.tip.hidden = !rows.length;
  }

  function hide(chart) {
    chart.cursor.hidden = chart.tip.hidden = true;
  }

  function listen(chart) {
    const { area } = chart;
    let drag = null;
    const place = (event) => {
      const box = area.getBoundingClientRect();
      return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    };
    area.addEventListener("pointermove", (event) => {
      if (drag === null) return show(chart, event);
      const [from, to] = [drag.from, place(event)].sort((one, other) => one - other);
      drag.chosen.style.left = `${100 * from}%`;
      drag.chosen.style.width = `${100 * (to - from)}%`;
    });
    area.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse" || !chart.isOverTime) return show(chart, event); // a finger scrolls the page
      if (event.button !== 0) return;
      event.preventDefault();
      area.setPointerCapture(event.pointerId);
      drag = { from: place(event), chosen: element("div", "chosen") };
      area.append(drag.chosen);
      hide(chart);
    });
    const end = (event, isDone) => {
      if (drag === null) return;
      const [from, to] = [drag.from, place(event)].sort((one, other) => one - other);
      drag.chosen.remove();
      drag = null;
      const { first, last } = chart.across;
      if (isDone && (to - from) * area.clientWidth >= LEAST_DRAG) zoom(first + from * (last - first), first + to * (last - first));
    };
    area.addEventListener("pointerup", (event) => end(event, true));
    area.addEventListener("pointercancel", (event) => {
      end(event, false);
      hide(chart);
    });
    area.addEventListener("pointerleave", () => hide(chart));
    if (chart.isOverTime) area.addEventListener("dblclick", () => zoom(chart.whole.first, chart.whole.last));
  }

  // Legends

  function press() {
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(!hidden.has(button.dataset.key))));
    charts.forEach(fit);
  }

  buttons.forEach((button) => {
    const { key } = button.dataset;
    const group = [...button.parentNode.querySelectorAll("button")].map((each) => each.dataset.key);
    button.addEventListener("click", () => {
      if (!hidden.delete(key)) hidden.add(key);
      press();
    });
    button.addEventListener("dblclick", () => {
      const alone = group.every((each) => each === key || hidden.has(each));
      group.forEach((each) => (alone || each === key ? hidden.delete(each) : hidden.add(each)));
      press();
    });
  });

  charts.forEach(listen);
  root.dataset.drawn = String(charts.length);
})();
