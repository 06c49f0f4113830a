// Draws the page's charts with plotly.js. The data are JSON from charts.py; the colours come from style.css.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const places = [...document.querySelectorAll("[data-chart]")];
  const buttons = [...document.querySelectorAll(".legend button")];
  const hidden = new Set();
  const whole = [0, 1000 * data.seconds];
  let shown = whole; // milliseconds from the start of the run
  let following = false; // while the other charts follow the zoom of one

  const font = getComputedStyle(document.body).fontFamily;
  const pen = document.createElement("canvas").getContext("2d"); // to measure text with
  pen.font = "11px " + font;

  const styled = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();

  function dressed(trace) {
    const colour = styled(trace.colour);
    const done = { ...trace, visible: !hidden.has(trace.key) };
    if (trace.type === "bar") done.marker = { color: colour };
    else done.line = { ...trace.line, color: colour };
    if (trace.filled) done.fillcolor = colour;
    delete done.key;
    delete done.colour;
    delete done.filled;
    return done;
  }

  // The name of a phase if it fits, shortened if most of it fits.
  function fitting(name, pixels) {
    const fits = (words) => pen.measureText(words).width <= pixels - 8;
    let plain = new DOMParser().parseFromString(name, "text/html").body.textContent;
    if (fits(plain)) return name;
    while (plain.length > 4 && !fits(plain + "…")) plain = plain.slice(0, -1).trimEnd();
    if (!fits(plain + "…")) return "";
    return plain.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;") + "…";
  }

  function bands(pixels) {
    const scale = pixels / (shown[1] - shown[0]);
    const areas = data.bands.map((band, index) => ({
      type: "rect", xref: "x", yref: "paper", x0: band.from, x1: band.to, y0: 0, y1: 1, layer: "below",
      fillcolor: styled("band"), opacity: index % 2 ? 0 : 1, line: { width: 0 },
    }));
    const names = data.bands.map((band) => {
      const from = Math.max(band.from, shown[0]);
      const room = (Math.min(band.to, shown[1]) - from) * scale;
      return {
        type: "line", xref: "x", yref: "paper", x0: from, x1: from, y0: 0, y1: 1, layer: "below",
        line: { width: from === band.from ? 1 : 0, color: styled("line") },
        label: {
          text: fitting(band.name, room), textangle: 0, textposition: "end", xanchor: "left", yanchor: "top", padding: 4,
          font: { size: 11, color: styled("quiet") },
        },
      };
    });
    return [...areas, ...names];
  }

  function clock() {
    const long = whole[1] >= 3600e3;
    return {
      type: "date", range: shown.slice(), hoverformat: whole[1] > 86400e3 ? "day %-d, %H:%M:%S" : long ? "%-H:%M:%S" : "%-M:%S",
      tickformat: whole[1] > 86400e3 ? "day %-d\n%H:%M" : long ? "%-H:%M:%S" : "%-M:%S", nticks: 8,
    };
  }

  const HEADROOM = 0.14; // above the data, for the names of the phases

  function extent(chart, traces) {
    const seen = traces.filter((trace) => trace.visible);
    let points = seen.flatMap((trace) => trace.y);
    if (seen.length && (seen[0].stackgroup || seen[0].type === "bar")) {
      points = seen[0].y.map((_, index) => seen.reduce((sum, trace) => sum + (trace.y[index] || 0), 0));
    }
    if (chart.threshold !== null) points.push(chart.threshold);
    points = points.filter((y) => y > 0);
    const fold = (pick, first) => points.reduce((one, other) => pick(one, other), first);
    return points.length ? [fold(Math.min, Infinity), fold(Math.max, 0)] : [1, 1];
  }

  // The ticks of a logarithmic axis of seconds: 1, 2 and 5 in each decade, as many as fit.
  function decades(least, most, height) {
    const low = Math.log10(least) - 0.1;
    const high = Math.log10(most) + 0.1;
    const room = height / (high - low);
    const steps = room > 75 ? [1, 2, 5] : room > 45 ? [1, 3] : [1];
    const vals = [];
    for (let power = -7; power <= 5; power += room > 16 ? 1 : 2) steps.forEach((step) => vals.push(step * 10 ** power));
    const named = (s) => (s >= 0.9999 ? [s, "s"] : s >= 0.9999e-3 ? [s * 1e3, "ms"] : [s * 1e6, "µs"]);
    const words = (s) => `${Number(named(s)[0].toPrecision(3))} ${named(s)[1]}`;
    return { range: [low, high], tickmode: "array", tickvals: vals, ticktext: vals.map(words) };
  }

  function vertical(chart, traces, height) {
    const [least, most] = extent(chart, traces);
    const axis = chart.layout.yaxis.type === "log" ? decades(least, most, height) : { range: [0, most] };
    axis.range[1] += (axis.range[1] - axis.range[0]) * (chart.overTime && data.bands.length ? HEADROOM : 0.04);
    return axis;
  }

  function layout(chart, traces, width, height) {
    const narrow = width < 500;
    const axis = { gridcolor: styled("grid"), linecolor: styled("line"), zerolinecolor: styled("line"), automargin: true };
    const margin = { l: narrow ? 44 : 56, r: narrow ? 8 : 14, t: 10, b: 30 };
    const shapes = chart.overTime ? bands(width - margin.l - margin.r) : [];
    if (chart.threshold !== null) {
      shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: chart.threshold, y1: chart.threshold, line: { width: 1.5, dash: "dash", color: styled("bad") } });
    }
    return {
      ...chart.layout,
      width, height, margin, shapes,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: font, size: 12, color: styled("quiet") },
      hovermode: "x unified",
      hoverlabel: { bgcolor: styled("card"), bordercolor: styled("line"), font: { color: styled("ink") }, namelength: 40 },
      dragmode: chart.overTime && !touch ? "zoom" : false,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: styled("quiet"), activecolor: styled("ink") },
      showlegend: chart.ownLegend,
      legend: { orientation: "h", x: 0, y: -0.16, yanchor: "top", traceorder: "normal" },
      xaxis: { ...axis, ...(chart.overTime ? clock() : { fixedrange: true }), ...chart.layout.xaxis },
      yaxis: { ...axis, fixedrange: true, exponentformat: "none", ...chart.layout.yaxis, ...vertical(chart, traces, height - 40) },
    };
  }

  const touch = matchMedia("(pointer: coarse)").matches; // a finger in a chart scrolls the page
  const config = { displaylogo: false, displayModeBar: touch ? false : "hover", modeBarButtons: [["toImage"]], showTips: false };

  function draw(place) {
    const chart = data.charts[place.dataset.chart];
    const width = place.clientWidth;
    if (!width) return; // in a closed details element
    const traces = chart.traces.map(dressed);
    Plotly.react(place, traces, layout(chart, traces, width, place.clientHeight), config);
    if (chart.overTime && !place.dataset.followed) {
      place.dataset.followed = "yes";
      place.on("plotly_relayout", (event) => follow(event));
    }
  }

  const drawAll = () => places.forEach(draw);
  const milliseconds = (moment) => (typeof moment === "number" ? moment : Date.parse(moment.replace(" ", "T") + "Z"));

  // Zooming one chart over time zooms all of them.
  function follow(event) {
    if (following) return;
    if (event["xaxis.autorange"]) shown = whole;
    else if (event["xaxis.range[0]"] !== undefined) shown = [milliseconds(event["xaxis.range[0]"]), milliseconds(event["xaxis.range[1]"])];
    else return;
    following = true;
    places.filter((place) => data.charts[place.dataset.chart].overTime).forEach(draw);
    following = false;
  }

  function press() {
    buttons.forEach((button) => button.setAttribute("aria-pressed", String(!hidden.has(button.dataset.key))));
    drawAll();
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

  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 100);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => {
    root.classList.add("paper");
    drawAll();
  });
  addEventListener("afterprint", () => {
    root.classList.remove("paper");
    drawAll();
  });
  document.querySelectorAll("details").forEach((each) => each.addEventListener("toggle", () => each.querySelectorAll("[data-chart]").forEach(draw)));

  drawAll();
  root.dataset.drawn = String(places.length);
})();
