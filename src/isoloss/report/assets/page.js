"use strict";
// Draws the interactive plots over the static ones. Where anything is missing (no DecompressionStream, no
// data), the static figures stay: the page is whole without this script.
(async () => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const live = [...document.querySelectorAll(".live")];
  if (!live.length || typeof DecompressionStream === "undefined") return;

  const packed = Uint8Array.from(atob($("plotly").textContent), (c) => c.charCodeAt(0));
  const source = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  const script = document.createElement("script");
  script.textContent = source;
  document.head.append(script);
  $("plotly").remove();
  if (typeof Plotly === "undefined") return;

  const styles = new Map(data.arms.map((arm) => [arm.name, arm]));
  const dashes = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
  const axisNames = { S: "updates", D: data.units.D, C: "training FLOPs" };
  const controls = $("controls");
  // Named buttons only: Plotly's own set holds one that sends the plot to a server.
  const options = {
    responsive: true, displayModeBar: true, displaylogo: false, typesetMath: false, plotlyServerURL: "", toImageButtonOptions: { format: "svg" },
    modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]],
  };

  // Plotly reads names as markup: what a user wrote must stay text.
  const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const compact = (value) => value >= 1000 ? Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(value).replace("K", "k") : String(Number(value.toPrecision(3)));
  const amount = (value, x) => x === "C" ? `${value.toExponential(2)} FLOPs` : `${Math.round(value).toLocaleString("en")} ${axisNames[x]}`;
  const dashOf = (size) => dashes[(data.sizes.length - 1 - data.sizes.indexOf(size)) % dashes.length];
  const by = (list, key) => list.reduce((map, item) => map.set(key(item), [...(map.get(key(item)) ?? []), item]), new Map());
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  function state() {
    const chosen = controls ? new FormData(controls) : new FormData();
    const size = chosen.get("size") ?? "all";
    return {
      arms: new Set(chosen.getAll("arm")),
      size: size === "all" ? null : data.sizes[Number(size)],
      x: chosen.get("x") ?? "D",
      xscale: chosen.get("xscale") ?? "log",
      yscale: chosen.get("yscale") ?? "log",
      seeds: chosen.get("seeds") ?? "mean",
      part: chosen.get("part") ?? $("curves")?.dataset.part ?? "curve",
    };
  }

  function theme() {
    const css = getComputedStyle(document.documentElement);
    const read = (name) => css.getPropertyValue(name).trim();
    return { paper: read("--paper"), ink: read("--ink"), muted: read("--muted"), rule: read("--rule"), hair: read("--hair"), sans: read("--sans") };
  }

  // Ticks at 1, 2, 5 in every decade, or fewer where the plot is narrow; one decade to spare for panning.
  function ticks(values, x, width) {
    const low = Math.floor(Math.log10(Math.min(...values))), high = Math.ceil(Math.log10(Math.max(...values)));
    const decades = Math.log10(Math.max(...values) / Math.min(...values)) || 1;
    const room = width / (x === "C" ? 62 : 46) / decades;
    const steps = room >= 3 ? [1, 2, 5] : room >= 2 ? [1, 3] : [1];
    const skip = Math.max(1, Math.ceil(1 / room));
    const tickvals = [];
    for (let power = low - 1; power <= high + 1; power++) {
      if ((power - low) % skip === 0) steps.forEach((step) => tickvals.push(step * 10 ** power));
    }
    const name = (value) => {
      const power = Math.floor(Math.log10(value) + 1e-9);
      return x === "C" ? `${Math.round(value / 10 ** power)}×10<sup>${power}</sup>` : compact(value);
    };
    return { tickmode: "array", tickvals, ticktext: tickvals.map(name) };
  }

  function draw(id, traces, { x, xscale, yscale }, notes) {
    const look = theme(), element = $(id);
    const axis = { gridcolor: look.hair, linecolor: look.rule, zeroline: false, tickcolor: look.rule, ticks: "outside", ticklen: 4, automargin: true };
    const values = traces.flatMap((trace) => trace.x).filter((value) => value > 0);
    const marks = xscale === "log" && values.length ? ticks(values, x, element.clientWidth - 118) : { exponentformat: x === "C" ? "power" : "SI", rangemode: "tozero" };
    Plotly.react(element, traces, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
      font: { family: look.sans, size: 12, color: look.ink },
      margin: { l: 56, r: 62, t: 30, b: 44 },
      hoverlabel: { bgcolor: look.paper, bordercolor: look.rule, font: { color: look.ink, family: look.sans }, align: "left" },
      modebar: { color: look.muted, activecolor: look.ink, bgcolor: "rgba(0,0,0,0)" },
      xaxis: { ...axis, ...marks, type: xscale, title: { text: escaped(axisNames[x]), standoff: 8 } },
      yaxis: { ...axis, type: yscale, title: { text: `loss, ${escaped(data.units.loss)}`, standoff: 8 }, tickformat: ".4~g" },
      annotations: notes.map((note) => ({
        x: xscale === "log" ? Math.log10(note.x) : note.x, y: yscale === "log" ? Math.log10(note.y) : note.y,
        text: escaped(note.text), showarrow: false, xanchor: "left", xshift: 7, font: { color: look.muted, size: 11 },
      })),
    }, options).then(() => {
      // The group around them and the buttons have the words; nameless pictures would only be read out as such.
      document.querySelectorAll(".live svg, #js-plotly-tester").forEach((svg) => svg.setAttribute("aria-hidden", "true"));
    });
  }

  const perUpdate = (run, x) => x === "S" ? 1 : run.S && run[x] != null ? run[x] / run.S : null;

  function visible(now) {
    return data.runs.filter((run) => now.arms.has(run.arm) && (now.size === null || run.N === now.size));
  }

  // Rows of one line: a run, or the mean over the seeds of a cell where all of them were measured.
  function lineOf(runs, now) {
    const curves = runs.map((run) => new Map(run[now.part].update.map((update, i) => [update, run[now.part].loss[i]])));
    const scale = perUpdate(runs[0], now.x);
    if (scale === null) return [];
    return [...curves[0].keys()]
      .filter((update) => curves.every((curve) => curve.get(update) != null) && (now.xscale === "linear" || update > 0))
      .map((update) => [update * scale, mean(curves.map((curve) => curve.get(update)))]);
  }

  function drawCurves(now) {
    const traces = [], ends = new Map();
    for (const [key, cell] of by(visible(now), (run) => JSON.stringify([run.arm, run.N]))) {
      const [arm, size] = JSON.parse(key), style = styles.get(arm);
      const lines = [...by(cell, (run) => now.seeds === "mean" ? run.S : `${run.S} ${run.seed}`).values()];
      const trace = { x: [], y: [], text: [], name: escaped(arm) };
      for (const runs of lines) {
        const rows = lineOf(runs, now);
        const note = `N ${compact(size)}, D ${compact(runs[0].D)}, ${now.seeds === "mean" ? `mean of ${runs.length}` : `seed ${escaped(runs[0].seed)}`}`;
        for (const [x, y] of rows) { trace.x.push(x); trace.y.push(y); trace.text.push(`${note}<br>${amount(x, now.x)}`); }
        trace.x.push(null); trace.y.push(null); trace.text.push("");
        const last = rows.at(-1), seen = ends.get(size);
        if (last && (!seen || last[0] > seen.x)) ends.set(size, { x: last[0], y: last[1], text: `N ${compact(size)}` });
      }
      const few = lines.every((runs) => runs[0][now.part].update.length <= 24);
      traces.push({
        ...trace, type: "scatter", mode: few ? "lines+markers" : "lines", connectgaps: false,
        line: { color: style.color, width: now.seeds === "mean" ? 1.8 : 1, dash: now.size === null ? dashOf(size) : "solid" },
        marker: { color: style.color, symbol: style.symbol, size: 4.5 }, opacity: now.seeds === "mean" ? 0.95 : 0.6,
        hovertemplate: "<b>%{fullData.name}</b> %{y:.4f}<br>%{text}<extra></extra>",
      });
    }
    draw("curves", traces, now, [...ends.values()]);
  }

  function drawFinal(now) {
    const traces = [], ends = new Map();
    for (const [key, cell] of by(visible(now).filter((run) => run[now.x] > 0), (run) => JSON.stringify([run.arm, run.N]))) {
      const [arm, size] = JSON.parse(key), style = styles.get(arm);
      const rows = [...by(cell, (run) => run[now.x])].sort((a, b) => a[0] - b[0]).map(([x, runs]) => [x, mean(runs.map((run) => run.loss)), runs.length]);
      const line = { color: style.color, width: 1.8, dash: now.size === null ? dashOf(size) : "solid" };
      const each = now.seeds === "each";
      traces.push({
        type: "scatter", mode: each ? "lines" : "lines+markers", name: escaped(arm), x: rows.map((row) => row[0]), y: rows.map((row) => row[1]),
        text: rows.map((row) => `N ${compact(size)}, mean of ${row[2]}<br>${amount(row[0], now.x)}`), line, marker: { color: style.color, symbol: style.symbol, size: 8 },
        hovertemplate: "<b>%{fullData.name}</b> %{y:.4f}<br>%{text}<extra></extra>",
      });
      if (each) {
        traces.push({
          type: "scatter", mode: "markers", name: escaped(arm), x: cell.map((run) => run[now.x]), y: cell.map((run) => run.loss),
          text: cell.map((run) => `N ${compact(size)}, seed ${escaped(run.seed)}<br>${amount(run[now.x], now.x)}`),
          marker: { color: style.color, symbol: style.symbol, size: 6, opacity: 0.75 }, hovertemplate: "<b>%{fullData.name}</b> %{y:.4f}<br>%{text}<extra></extra>",
        });
      }
      const last = rows.at(-1), seen = ends.get(size);
      if (!seen || last[0] > seen.x) ends.set(size, { x: last[0], y: last[1], text: `N ${compact(size)}` });
    }
    draw("final", traces, now, [...ends.values()]);
  }

  function drawLaw(element) {
    const law = data.laws[Number(element.dataset.law)], style = styles.get(law.arm), look = theme();
    const runs = data.runs.filter((run) => run.arm === law.arm && run.D);
    const held = (run) => law.held.some((row) => row.D === run.D && (row.N == null || row.N === run.N));
    const traces = [], ends = [];
    for (const curve of law.curves) {
      const size = curve.N == null ? "all sizes" : `N ${compact(curve.N)}`;
      if (curve.low && curve.high) {
        traces.push({ type: "scatter", mode: "lines", hoverinfo: "skip", x: [...curve.x, ...[...curve.x].reverse()], y: [...curve.high, ...[...curve.low].reverse()], fill: "toself", fillcolor: style.color + "26", line: { width: 0 } });
      }
      const reach = Math.max(0, ...runs.filter((run) => curve.N == null || run.N === curve.N).map((run) => run.D));
      const inside = curve.x.filter((x) => x <= reach).length;
      const parts = [[0, inside, "solid", "fitted"], [Math.max(0, inside - 1), curve.x.length, "dash", "beyond the measured lengths"]];
      for (const [from, to, dash, word] of parts) {
        if (to - from < 2) continue;
        const text = curve.x.slice(from, to).map((x, i) => {
          const low = curve.low?.[from + i], high = curve.high?.[from + i];
          return `${size}, ${amount(x, "D")}, ${word}${low != null && high != null ? `<br>[${low.toFixed(4)}, ${high.toFixed(4)}]` : ""}`;
        });
        traces.push({ type: "scatter", mode: "lines", x: curve.x.slice(from, to), y: curve.loss.slice(from, to), text, line: { color: style.color, width: 1.8, dash }, hovertemplate: "<b>law</b> %{y:.4f}<br>%{text}<extra></extra>" });
      }
      if (curve.x.length) ends.push({ x: curve.x.at(-1), y: curve.loss.at(-1), text: size });
    }
    const fitted = runs.filter((run) => !held(run));
    traces.push({
      type: "scatter", mode: "markers", x: fitted.map((run) => run.D), y: fitted.map((run) => run.loss), marker: { color: style.color, symbol: style.symbol, size: 6 },
      text: fitted.map((run) => `N ${compact(run.N)}, seed ${escaped(run.seed)}, ${amount(run.D, "D")}`), hovertemplate: "<b>measured</b> %{y:.4f}<br>%{text}<extra></extra>",
    });
    if (law.held.length) {
      traces.push({
        type: "scatter", mode: "markers", x: law.held.map((row) => row.D), y: law.held.map((row) => row.actual),
        marker: { color: look.paper, symbol: style.symbol, size: 9, line: { color: style.color, width: 2 } },
        text: law.held.map((row) => `${row.N == null ? "all sizes" : `N ${compact(row.N)}`}, ${amount(row.D, "D")}<br>predicted ${row.predicted?.toFixed(4)}`), hovertemplate: "<b>held out</b> %{y:.4f}<br>%{text}<extra></extra>",
      });
    }
    draw(element.id, traces, { x: "D", xscale: "log", yscale: "log" }, ends);
  }

  function drawPair() {
    const now = state();
    if ($("curves")) drawCurves(now);
    if ($("final")) drawFinal(now);
  }
  function drawAll() {
    drawPair();
    live.filter((element) => element.dataset.law !== undefined).forEach(drawLaw);
  }

  const show = (ready) => {
    live.forEach((element) => { element.hidden = !ready; });
    document.documentElement.classList.toggle("ready", ready);
    if (controls) controls.hidden = !ready;
  };
  show(true); // Plotly measures the elements that it draws into.
  try {
    drawAll();
  } catch (error) {
    show(false);
    throw error;
  }
  if (controls) {
    controls.addEventListener("change", drawPair);
    controls.addEventListener("submit", (event) => event.preventDefault());
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.documentElement.dataset.plots = "drawn";
})();
