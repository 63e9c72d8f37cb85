"use strict";
// The page of `isoloss watch`: asks for what changed, once a second, and draws it. Every text goes in as text.

const byId = (id) => document.getElementById(id);
const known = { tag: null, plan: null, head: null, runs: [], tracks: [] };
const shown = { arms: new Set(), part: "validation", scale: "log", trials: null, table: "latest", allShapes: false, before: 0 };
let dirty = new Set();
let lost = null; // since when the server is not reached
let told = null; // when it was last heard

// Elements

function fill(node, children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  return fill(node, children);
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  return fill(node, children);
}

function text(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

// Numbers

const count = (value) => Math.round(value).toLocaleString("en-US");
const loss = (value) => (value === null ? "–" : value.toFixed(4));
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;
const sum = (values) => values.reduce((total, value) => total + value, 0);
const percent = (share) => `${share > 0.995 && share < 1 ? 99 : Math.round(100 * share)}\u00a0%`;

function time(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 72 * 3600) return `${(seconds / 3600).toFixed(seconds < 36000 ? 1 : 0)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

function clock(at) {
  const then = new Date(1000 * at);
  const hour = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return then.toDateString() === new Date().toDateString() ? hour : `${then.toLocaleDateString()} ${hour}`;
}

function rate(value) {
  return value >= 100 ? count(value) : value.toPrecision(2);
}

// What is known

function take(message) {
  if (message.whole) {
    const same = known.plan && JSON.stringify(known.plan) === JSON.stringify(message.plan);
    if (!same) {
      const old = known.plan ? new Set(known.plan.arms.map((arm) => arm.name)) : new Set();
      known.plan = message.plan;
      for (const arm of known.plan.arms) if (!old.has(arm.name)) shown.arms.add(arm.name);
      dirty.add("plan");
    }
    known.runs = [];
    known.tracks = [];
    dirty.add("curves");
  }
  known.tag = message.tag;
  known.head = message.head;
  for (const [index, run] of Object.entries(message.runs)) known.runs[index] = run;
  for (const [index, track] of Object.entries(message.tracks)) known.tracks[index] = track;
  if (Object.keys(message.runs).length + Object.keys(message.tracks).length) dirty.add("curves");
  dirty.add("head");
  requestAnimationFrame(draw);
}

const arm = (name) => known.plan.arms.find((one) => one.name === name);
const hue = (name) => arm(name)?.css ?? ""; // the class that sets --arm
const mark = (name) => el("span", { class: `glyph ${hue(name)}`, "aria-hidden": "true" }, arm(name)?.glyph ?? "·");

// Runs of tuning are shown as long as there is nothing else, unless somebody chose.
const trialsShown = () => shown.trials ?? known.head.phase === "tuning";

function covered(track, from, to) {
  const spans = known.tracks[track]?.spans ?? [];
  return sum(spans.map(([begin, end]) => Math.max(0, Math.min(end, to) - Math.max(begin, from))));
}

function where(run) {
  const parts = Object.entries(run.cell)
    .filter(([path]) => !["duration", "seed"].includes(path) && !path.startsWith("model."))
    .map(([path, value]) => `${path.split(".").pop()} ${value}`);
  return [`N ${count(run.N)}`, ...parts, plural(run.S, "update"), `seed ${run.seed}`].join(" · ");
}

// The top of the page

function sayState() {
  const head = known.head;
  const working = head && head.drivers.length > 0;
  let state = "asking";
  let words = "asking";
  if (lost !== null) [state, words] = ["lost", "not reached, trying again"];
  else if (head && head.phase === "done") [state, words] = ["done", "finished"];
  else if (working) [state, words] = ["live", "live"];
  else if (head && head.phase === "reading") [state, words] = ["asking", "reading the store"];
  else if (head) [state, words] = ["idle", "no driver at work"];
  byId("link").dataset.state = state;
  text(byId("link"), words);
  document.body.classList.toggle("lost", lost !== null);
}

function troubles() {
  const head = known.head;
  const found = [];
  if (lost !== null)
    found.push(`The server of this page is not reached; it is asked again until it is.${told ? ` What is shown is from ${clock(told)}.` : ""}`);
  if (head?.problem) found.push(head.problem);
  for (const notice of head?.notices ?? []) found.push(`Damage in the store: ${notice}`);
  const node = byId("troubles");
  if (node.dataset.said === found.join("\n")) return;
  node.dataset.said = found.join("\n");
  fill(node, found.map((words) => el("p", { class: "warning" }, words)));
}

function broken(counts) {
  return (counts.diverged ?? 0) + (counts.failed ?? 0);
}

function left(head) {
  // Counted down from when it was estimated; what is at work now is a part of it.
  const passed = head.drivers.length ? Date.now() / 1000 - head.left.at : 0;
  return Math.max(0, head.left.seconds - passed);
}

const SPEEDS = {
  store: "at the speed measured here",
  calibration: "at the speed calibrated on this machine",
  interpolation: "at speeds calibrated on this machine",
  rough: "a rough guess: nothing like it was timed yet",
};

function headline() {
  const { head, plan } = known;
  const runs = sum(Object.values(head.runs));
  const done = head.runs.done ?? 0;
  const trials = sum(Object.values(head.trials));
  const working = head.drivers.length > 0;
  const begin = el("code", {}, `isoloss run ${plan.file}`);
  let title = "Reading the store …";
  let lead = [];
  if (head.phase === "waiting") {
    title = "Nothing is trained yet.";
    lead = [`There is no store at ${plan.store} so far; this page goes on when `, begin, " has begun."];
  } else if (head.phase === "done") {
    title = runs === 1 ? "The one run is done." : `All ${count(runs)} runs are done.`;
    lead = [el("code", {}, `isoloss report ${plan.file}`), " writes the page of the results."];
  } else if (head.phase !== "reading") {
    const training = head.runs.training ?? 0;
    if (head.phase === "tuning" && !done)
      title = `Tuning first: ${count(head.trials.done ?? 0)} of ${plural(trials, "candidate")} ${head.trials.done === 1 ? "is" : "are"} trained.`;
    else if (training) title = `${count(done)} of ${plural(runs, "run")} are done, ${count(training)} in training.`;
    else title = `${count(done)} of ${plural(runs, "run")} are done.`;
    const open = runs - done - broken(head.runs);
    if (!open && broken(head.runs)) lead = ["What can be trained is trained; the others failed or diverged, see below."];
    else if (working && head.left) {
      const seconds = left(head);
      lead = [`About ${time(seconds)} to go, until ${clock(Date.now() / 1000 + seconds)}: ${plural(head.left.workers, "worker")}, ${SPEEDS[head.left.speed]}.`];
    } else if (!working) {
      const rest = head.left ? ` About ${time(head.left.seconds)} of training is left.` : "";
      lead = ["No driver is at work; ", begin, ` goes on from what is stored.${rest}`];
    }
  }
  text(byId("headline"), title);
  const node = byId("lead");
  const words = lead.map((part) => part.textContent ?? part).join("");
  if (node.textContent !== words) fill(node, lead);
}

function facts() {
  const { head } = known;
  const updates = head.updates;
  const rows = [];
  if (updates) {
    rows.push([percent(updates.trained / updates.planned), "of the updates are trained"]);
    rows.push([`${count(head.runs.done ?? 0)} of ${count(sum(Object.values(head.runs)))}`, "runs done"]);
    if (head.runs.training) rows.push([count(head.runs.training), "in training"]);
    if (head.runs.waiting) rows.push([count(head.runs.waiting), "waiting"]);
    if (broken(head.runs)) rows.push([count(broken(head.runs)), "failed or diverged", "bad"]);
    if (head.rate) rows.push([rate(head.rate), "updates a second"]);
    const stretches = sum(head.drivers.map((driver) => driver.tracks.length + driver.others));
    if (stretches) rows.push([count(stretches), stretches === 1 ? "worker at work" : "workers at work"]);
  }
  const node = byId("facts");
  const said = JSON.stringify(rows);
  if (node.dataset.said !== said) {
    node.dataset.said = said;
    fill(node, rows.map(([value, name, look]) => el("div", {}, el("dt", {}, name), el("dd", { class: look ?? null }, value))));
  }
  const bar = byId("progress");
  const [before, since] = bar.children;
  const share = updates ? updates.trained / updates.planned : 0;
  bar.setAttribute("aria-valuenow", String(Math.round(100 * share)));
  // Told apart only where there is a present driver, or was one.
  const found = shown.before = updates && (head.drivers.length || updates.trained > updates.before) ? updates.before : 0;
  before.style.width = updates ? `${(100 * found) / updates.planned}%` : "0";
  since.style.width = updates ? `${(100 * (updates.trained - found)) / updates.planned}%` : "0";
  const under = [];
  if (updates) {
    under.push(`${count(updates.trained)} of ${count(updates.planned)} updates`);
    if (head.phase === "tuning") under.push(" (about: tuning decides what the rest is)");
    const legend = [el("span", { class: "swatch", "aria-hidden": "true" }), `${count(updates.trained - found)} by the present driver`];
    if (found) under.push(" · ", ...legend, "; ", el("span", { class: "swatch before", "aria-hidden": "true" }), `${count(found)} were there before it`);
    if (updates.alone > updates.planned)
      under.push(` · every run alone would take ${count(updates.alone)}: sharing saves ${percent(1 - updates.planned / updates.alone)}`);
  }
  const said2 = under.map((part) => part.textContent ?? part).join("|");
  if (byId("under").dataset.said !== said2) {
    byId("under").dataset.said = said2;
    fill(byId("under"), under);
  }
}

function atWork() {
  const { head, plan } = known;
  const items = head.drivers.flatMap((driver) => driver.tracks.map((index) => [index, driver]));
  byId("work").hidden = items.length + sum(head.drivers.map((driver) => driver.others)) === 0;
  const rows = items.map(([index, driver]) => {
    const track = plan.tracks[index];
    const done = covered(index, 0, track.length);
    const first = plan.runs[track.runs[0]];
    const parts = [`N ${count(track.N)}`, `seed ${first.seed}`];
    if (track.trial && first.lr !== null) parts.push(`LR ${first.lr}`);
    const bar = el("div", { class: "meter", role: "img", "aria-label": `${count(done)} of ${count(track.length)} updates` }, el("span"));
    bar.firstChild.style.width = `${(100 * done) / track.length}%`;
    const serves = track.trial ? "for tuning" : track.runs.length > 1 ? `shared by ${plural(track.runs.length, "run")}` : "for one run";
    return el("li", { title: `trained by ${driver.name}` },
      el("div", { class: "what" }, el("strong", {}, ...track.arms.flatMap((name, i) => [i ? " + " : null, mark(name), "\u00a0", name])), el("span", { class: "quiet" }, parts.join(" · "))),
      bar,
      el("div", { class: "far" }, el("span", {}, `update ${count(track.begun + done)} of ${count(track.begun + track.length)}`), el("span", {}, serves)));
  });
  const others = sum(head.drivers.map((driver) => driver.others));
  if (others) rows.push(el("li", { class: "quiet" }, `${plural(others, "stretch")}${others === 1 ? "" : "es"} of another study in this store`));
  fill(byId("working"), rows);
}

// Small plots, one a size

const W = { left: 46, right: 14, top: 8, bottom: 24 };

function ticksLog(low, high, most) {
  if (high / low < 5) return ticksLinear(high, (most * high) / (high - low)).filter((value) => value >= low);
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1)
    for (const step of [1, 1.5, 2, 3, 5, 7]) found.push(step * 10 ** power);
  let kept = found.filter((value) => value >= low * 0.9999 && value <= high * 1.0001);
  for (const steps of [[1, 2, 5], [1, 3], [1]]) {
    if (kept.length <= most) break;
    kept = kept.filter((value) => steps.some((step) => Math.abs(Math.log10(value / step) - Math.round(Math.log10(value / step))) < 1e-6));
  }
  return kept;
}

function ticksLinear(high, most) {
  const power = 10 ** Math.floor(Math.log10(high / most));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => high / size <= most);
  return Array.from({ length: Math.floor(high / step) + 1 }, (_, i) => i * step);
}

const label = (value) => (value >= 1000 ? `${+(value / 1000).toPrecision(3)}k` : String(+value.toPrecision(3)));

function linesOf(size) {
  // What a panel draws: {points, arms, live, trial, words} with points in updates and loss.
  const { plan } = known;
  const lines = [];
  if (shown.part === "training") {
    plan.tracks.forEach((track, index) => {
      const record = known.tracks[index];
      if (!record || !track.own || track.N !== size || !record.update.length) return;
      if (track.trial && !trialsShown()) return;
      const begun = plan.runs[track.runs[0]].begun;
      const points = record.update.map((update, i) => [update - begun, record.loss[i]]);
      // A line goes on where the track that it leaves was.
      const before = previous(track, index);
      if (before !== null) points.unshift(before);
      const words = `${track.arms.join(" + ")}, seed ${plan.runs[track.runs[0]].seed}`;
      lines.push({ points, arms: track.arms, live: record.live, trial: track.trial, words, ends: null });
    });
  } else {
    plan.runs.forEach((run, index) => {
      const record = known.runs[index];
      if (!record || run.N !== size || (run.trial && !trialsShown())) return;
      const points = record.losses[0].map((update, i) => [update, record.losses[1][i]]);
      if (record.loss !== null) {
        if (points.length && points.at(-1)[0] === run.S) points.pop();
        points.push([run.S, record.loss]);
      }
      if (!points.length && !record.expected) return;
      const live = record.status === "training";
      const words = `${run.arm}, ${plural(run.S, "update")}, seed ${run.seed}`;
      lines.push({ points, arms: [run.arm], live, trial: run.trial, words, ends: record.loss !== null, expected: record.expected, S: run.S });
    });
  }
  return lines.filter((line) => line.arms.some((name) => shown.arms.has(name)));
}

function previous(track, index) {
  for (const member of track.runs) {
    const run = known.plan.runs[member];
    const place = run.tracks.findIndex(([one]) => one === index);
    if (place <= 0) continue;
    const [above, length] = run.tracks[place - 1];
    const record = known.tracks[above];
    if (!record || !known.plan.tracks[above].own) return null;
    const until = known.plan.tracks[above].begun + length;
    let last = null;
    record.update.forEach((update, i) => { if (update <= until) last = [update - run.begun, record.loss[i]]; });
    return last;
  }
  return null;
}

function panels() {
  const { plan } = known;
  const sizes = [...new Set(plan.runs.map((run) => run.N))].sort((a, b) => a - b);
  const holder = byId("panels");
  while (holder.children.length > sizes.length) holder.lastChild.remove();
  const all = sizes.map(linesOf);
  const values = all.flat().flatMap((line) => [...line.points.map((point) => point[1]), ...(line.expected ? [line.expected.loss] : [])]).filter((value) => value > 0);
  const longest = Math.max(1, ...plan.runs.filter((run) => !run.trial || trialsShown()).map((run) => run.S));
  const first = Math.max(1, Math.min(longest / (values.length ? 2 : 30), ...all.flat().flatMap((line) => line.points.map((point) => point[0])).filter((update) => update > 0)));
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (!values.length) [low, high] = [1, 4];
  const slack = Math.max(1.02, (high / low) ** 0.04);
  const box = { empty: !values.length, first, longest, low: low / slack, high: high * slack };
  sizes.forEach((size, i) => panel(holder, i, size, all[i], box));
  const reading = shown.part === "validation"
    ? "Validation loss as it was measured; a dot is the end of a run. Dashed: where a running run is likely to end, with its band."
    : "Training loss as means over neighbouring updates. A line of several colours is one stretch that several arms share.";
  text(byId("reading"), `${reading} Curves grow by whole pieces, as they are stored. The numbers are in the table of runs.`);
}

function panel(holder, place, size, lines, box) {
  let node = holder.children[place];
  if (!node) {
    node = el("figure", { class: "panel" }, el("figcaption", {}, el("strong"), el("span", { class: "quiet" })), svg("svg", { role: "img" }));
    node.lastChild.addEventListener("pointermove", (event) => point(node, event));
    node.lastChild.addEventListener("pointerleave", () => unpoint(node));
    holder.append(node);
  }
  const [caption, drawing] = node.children;
  const mine = known.plan.runs.map((run, i) => [run, known.runs[i]]).filter(([run, record]) => run.N === size && !run.trial && record);
  const done = mine.filter(([, record]) => record.status === "done").length;
  text(caption.firstChild, `N ${count(size)}`);
  text(caption.lastChild, `${count(done)} of ${plural(mine.length, "run")}`);
  const width = drawing.clientWidth || 400;
  const height = drawing.clientHeight || 220;
  drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const across = width - W.left - W.right;
  const down = height - W.top - W.bottom;
  const x = shown.scale === "log"
    ? (update) => W.left + (across * Math.log(Math.max(update, box.first) / box.first)) / Math.log(box.longest / box.first)
    : (update) => W.left + (across * update) / box.longest;
  const y = (value) => W.top + (down * Math.log(box.high / value)) / Math.log(box.high / box.low);
  const parts = [];
  const bottom = W.top + down;
  if (!lines.length) parts.push(svg("text", { class: "tick", x: W.left + across / 2, y: W.top + down / 2, "text-anchor": "middle" }, "nothing measured yet"));
  for (const tick of box.empty ? [] : ticksLog(box.low, box.high, 6)) {
    parts.push(svg("line", { class: "grid", x1: W.left, x2: width - W.right, y1: y(tick), y2: y(tick) }));
    parts.push(svg("text", { class: "tick", x: W.left - 6, y: y(tick) + 4, "text-anchor": "end" }, label(tick)));
  }
  const marks = shown.scale === "log" ? ticksLog(box.first, box.longest, across / 48) : ticksLinear(box.longest, across / 64);
  for (const tick of marks) parts.push(svg("text", { class: "tick", x: x(tick), y: bottom + 16, "text-anchor": "middle" }, label(tick)));
  parts.push(svg("line", { class: "axis", x1: W.left, x2: width - W.right, y1: bottom, y2: bottom }));
  const spots = [];
  const above = [];
  const path = (points) => points.map(([u, v], i) => `${i ? "L" : "M"}${x(u).toFixed(1)} ${y(v).toFixed(1)}`).join("");
  for (const line of [...lines].sort((a, b) => a.live - b.live)) {
    const arms = line.arms.filter((name) => shown.arms.has(name));
    const points = line.points.filter((one) => one[1] > 0);
    const look = `line${line.live ? " live" : ""}${line.trial ? " trial" : ""}`;
    arms.forEach((name, i) => {
      if (points.length < 2) return;
      const dash = arms.length > 1 ? { "stroke-dasharray": `7 ${7 * (arms.length - 1)}`, "stroke-dashoffset": -7 * i } : {};
      parts.push(svg("path", { class: `${look} ${hue(name)}`, d: path(points), ...dash }));
    });
    const shade = hue(arms[0]);
    const last = points.at(-1);
    if (line.expected) above.push(...ahead(line, last, shade, x, y));
    if (last && line.ends) above.push(svg("circle", { class: `end ${shade}`, cx: x(last[0]), cy: y(last[1]), r: 2.6 }));
    else if (last && line.live) above.push(svg("circle", { class: `now ${shade}`, cx: x(last[0]), cy: y(last[1]), r: 3.6 }));
    for (const [update, value] of points) spots.push([x(update), y(value), `${line.words}: ${loss(value)} at update ${count(update)}`]);
    if (line.expected) spots.push([x(line.S), y(line.expected.loss), `${line.words}: ${ending(line.expected)} at its end`]);
  }
  fill(drawing, [...parts, ...above, svg("circle", { class: "pick", r: 5, visibility: "hidden" })]);
  drawing.setAttribute("aria-label", `${shown.part} loss against updates at N ${count(size)}: ${plural(lines.length, "line")}, ${count(done)} of ${plural(mine.length, "run")} done. The numbers are in the table of runs.`);
  node.spots = spots;
}

function ahead(line, last, shade, x, y) {
  const { loss: middle, low, high } = line.expected;
  const end = x(line.S);
  const found = [];
  if (last) {
    const [begin, from] = [x(last[0]), y(last[1])];
    if (low !== null) found.push(svg("path", { class: `wedge ${shade}`, d: `M${begin} ${from}L${end} ${y(high)}L${end} ${y(low)}Z` }));
    found.push(svg("path", { class: `ahead ${shade}`, d: `M${begin} ${from}L${end} ${y(middle)}` }));
  }
  if (low !== null) found.push(svg("path", { class: `bound ${shade}`, d: `M${end} ${y(low)}V${y(high)}` }));
  found.push(svg("circle", { class: `likely ${shade}`, cx: end, cy: y(middle), r: 2.8 }));
  return found;
}

const ending = (expected) => {
  const band = expected.low === null ? "" : ` [${loss(expected.low)}, ${loss(expected.high)}]`;
  return `${expected.ceiling ? "≤ " : "likely "}${loss(expected.loss)}${band}`;
};

function point(node, event) {
  const frame = node.lastChild.getBoundingClientRect();
  const [px, py] = [event.clientX - frame.left, event.clientY - frame.top];
  let best = null;
  let near = 26 ** 2;
  for (const spot of node.spots ?? []) {
    const far = (spot[0] - px) ** 2 + (spot[1] - py) ** 2;
    if (far < near) [near, best] = [far, spot];
  }
  if (best === null) return unpoint(node);
  const pick = node.lastChild.lastChild;
  pick.setAttribute("cx", best[0]);
  pick.setAttribute("cy", best[1]);
  pick.setAttribute("visibility", "visible");
  const tip = byId("tip");
  text(tip, best[2]);
  tip.hidden = false;
  const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
  tip.style.left = `${Math.max(8, Math.min(room, frame.left + best[0] - tip.offsetWidth / 2))}px`;
  tip.style.top = `${window.scrollY + frame.top + best[1] - tip.offsetHeight - 12}px`;
}

function unpoint(node) {
  byId("tip").hidden = true;
  node.lastChild.lastChild?.setAttribute("visibility", "hidden");
}

// Likely ends

function ends() {
  const { plan } = known;
  const rows = plan.runs.map((run, i) => [run, known.runs[i]]).filter(([, record]) => record?.expected);
  byId("ends").hidden = rows.length === 0;
  rows.sort((a, b) => b[1].trained / b[0].S - a[1].trained / a[0].S);
  const lows = rows.map(([, { expected }]) => expected.low ?? expected.loss);
  const highs = rows.map(([, { expected }]) => expected.high ?? expected.loss);
  const [low, high] = [Math.log(Math.min(...lows)), Math.log(Math.max(...highs))];
  const place = (value) => 4 + (120 * (Math.log(value) - low)) / Math.max(1e-9, high - low);
  fill(byId("ending"), rows.map(([run, record]) => {
    const { expected } = record;
    const last = record.losses[1].at(-1);
    const shade = hue(run.arm);
    const band = svg("svg", { class: "band", viewBox: "0 0 128 18", role: "img", "aria-label": ending(expected) },
      svg("line", { class: "all", x1: 4, x2: 124, y1: 9, y2: 9 }),
      expected.low === null ? null : svg("line", { class: `reach ${shade}`, x1: place(expected.low), x2: place(expected.high), y1: 9, y2: 9 }),
      svg("circle", { class: `now ${shade}`, cx: place(expected.loss), cy: 9, r: 4.5 }));
    const limits = expected.low === null ? "" : `[${loss(expected.low)}, ${loss(expected.high)}]`;
    return el("tr", {}, el("th", { scope: "row" }, mark(run.arm), "\u00a0", run.arm, el("span", { class: "quiet" }, ` ${where(run)}`)),
      meter(run, record), el("td", { class: "n" }, last === undefined ? "–" : loss(last)),
      el("td", { class: "n" }, el("data", { value: expected.loss }, `${expected.ceiling ? "≤ " : ""}${loss(expected.loss)}`), el("br"), el("span", { class: "quiet" }, limits)),
      el("td", {}, band), el("td", { class: "words" }, expected.words));
  }));
}

function meter(run, record) {
  const share = record.trained / (run.begun + run.S);
  const bar = el("div", { class: "meter", role: "img", "aria-label": `${count(record.trained)} of ${count(run.begun + run.S)} updates trained` }, el("span"));
  bar.firstChild.style.width = `${100 * Math.min(1, share)}%`;
  return el("td", {}, bar);
}

// The plan

const T = { width: 960, left: 12, right: 190, lane: 20, head: 30, gap: 12, axis: 30 };
const FEW = 5;

function tree() {
  const { plan } = known;
  const shapes = shown.allShapes ? plan.tree : plan.tree.slice(0, FEW);
  const longest = Math.max(1, ...shapes.flatMap((shape) => shape.stretches.map((stretch) => stretch.end)));
  const x = (update) => T.left + ((T.width - T.left - T.right) * update) / longest;
  const height = sum(shapes.map((shape) => T.head + shape.lanes * T.lane + T.gap)) + T.axis;
  const parts = [];
  for (const tick of ticksLinear(longest, 6)) {
    parts.push(svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: 0, y2: height - T.axis + 4 }));
    parts.push(svg("text", { class: "tick", x: x(tick), y: height - T.axis + 18 }, count(tick)));
  }
  parts.push(svg("text", { class: "tick", x: T.width - T.right + 56, y: height - T.axis + 18 }, "updates"));
  let top = 0;
  for (const shape of shapes) {
    const many = shape.members > 1 ? `${shape.members} × ` : "";
    parts.push(svg("text", { class: "shape", x: T.left, y: top + 18 }, `${many}${plural(shape.updates, "update")}`, svg("tspan", { class: "cells", dx: 10 }, shape.cells)));
    for (const stretch of shape.stretches) parts.push(branch(stretch, top + T.head, x));
    top += T.head + shape.lanes * T.lane + T.gap;
  }
  const trained = known.head.updates ? `${count(known.head.updates.trained)} of ${count(known.head.updates.planned)} updates are trained.` : "";
  const drawing = svg("svg", { class: "tree", viewBox: `0 0 ${T.width} ${height}`, role: "img", "aria-label": `The plan as a tree of stretches. ${trained}` }, ...parts);
  const rest = plan.tree.length - FEW;
  const more = rest > 0 ? el("button", { type: "button", id: "more" }, shown.allShapes ? "show fewer" : `show ${count(rest)} more`) : null;
  more?.addEventListener("click", () => { shown.allShapes = !shown.allShapes; tree(); byId("more").focus(); });
  const focused = document.activeElement?.id === "more";
  fill(byId("tree"), [drawing, more]);
  if (focused) byId("more")?.focus();
}

function branch(stretch, top, x) {
  const y = top + (stretch.lane + 0.5) * T.lane;
  const length = sum(stretch.parts.map(([, from, to]) => to - from));
  const done = sum(stretch.parts.map(([track, from, to]) => covered(track, from, to)));
  const [begin, end] = [x(stretch.start), Math.max(x(stretch.end), x(stretch.start) + 0.5)];
  const reach = (trained, whole) => begin + (end - begin) * (whole ? trained / whole : 0);
  // One stretch is drawn as far as it is trained; several, drawn as one, the stronger the more of them is.
  const alone = stretch.parts.length === 1;
  const reached = alone ? reach(done, length) : end;
  const strength = alone || !length ? 1 : done / length;
  const arms = stretch.arms.length ? stretch.arms : [""];
  const each = Math.max(2, Math.min(6, 2 + stretch.runs) / arms.length);
  const past = ([track, from, to]) => Math.max(0, Math.min((known.tracks[track]?.before ?? 0) - from, to - from));
  const old = shown.before ? sum(stretch.parts.map(past)) : 0;
  const group = svg("g", { class: stretch.trial ? "trial" : null }, svg("title", {}, `${stretch.words}; ${count(done)} of ${plural(length, "update")} trained${old ? `, ${count(old)} of them before the present driver` : ""}`));
  if (stretch.shared) group.append(svg("path", { class: "halo", d: `M${begin} ${y}H${end}`, "stroke-width": each * arms.length + 8 }));
  arms.forEach((name, i) => {
    const shift = (i - (arms.length - 1) / 2) * each;
    let root = "";
    if (stretch.above !== null && stretch.above !== stretch.lane) {
      const from = top + (stretch.above + 0.5) * T.lane;
      const bend = Math.max(0, Math.min(9, end - begin));
      root = `M${begin} ${from}V${y - bend + shift}q0 ${bend} ${bend} ${bend}`;
    }
    root ||= `M${begin} ${y + shift}`;
    group.append(svg("path", { class: `coming ${hue(name)}`, d: `${root}H${end}`, "stroke-width": each }));
    if (done) group.append(svg("path", { class: hue(name), d: `${root}H${Math.max(reached, begin)}`, "stroke-width": each, opacity: strength }));
    if (old) group.append(svg("path", { class: "old", d: `${root}H${Math.max(alone ? reach(old, length) : end, begin)}`, "stroke-width": each * 0.45, opacity: alone ? 1 : old / length }));
  });
  for (const [track, from, to] of stretch.parts) {
    const trained = covered(track, from, to);
    const at = known.tracks[track]?.live && trained < to - from && (from === 0 || covered(track, 0, from) === from);
    if (at) group.append(svg("circle", { class: "here", cx: reach(trained, to - from), cy: y, r: 4.5 }));
  }
  if (stretch.leaf) {
    const names = stretch.arms.join(", ");
    group.append(svg("circle", { class: done >= length ? "leaf whole" : "leaf", cx: end, cy: y, r: 3 }));
    group.append(svg("text", { class: "name", x: end + 8, y: y + 4 }, `${names.length > 22 ? `${names.slice(0, 21)}…` : names} · ${count(stretch.end)}`));
  }
  return group;
}

// The table of runs

const MOST_ROWS = 400;

function rows() {
  const { plan } = known;
  const wanted = {
    latest: (run, record) => (!run.trial || trialsShown()) && (record.trained > 0 || record.status !== "waiting"),
    done: (run, record) => !run.trial && record.status === "done",
    training: (run, record) => record.status === "training",
    waiting: (run, record) => !run.trial && record.status === "waiting",
    broken: (run, record) => ["failed", "diverged"].includes(record.status),
    trials: (run) => run.trial,
  }[shown.table];
  const found = plan.runs.map((run, i) => [run, known.runs[i]]).filter(([run, record]) => record && wanted(run, record));
  const order = { training: 0, failed: 1, diverged: 1, done: 2, waiting: 3 };
  found.sort((a, b) => order[a[1].status] - order[b[1].status] || b[1].written - a[1].written);
  const more = [...new Set(plan.runs.flatMap((run) => Object.keys(run.cell)))].filter((path) => !["duration", "seed"].includes(path) && !path.startsWith("model."));
  const trial = found.some(([run]) => run.trial);
  const head = ["Run", "N", ...more.map((path) => path.split(".").pop()), "updates", "seed", ...(trial ? ["LR"] : []), "state", "trained", "validation loss", "part A", ""];
  const right = new Set(["N", "updates", "seed", "LR", "validation loss", "part A"]);
  fill(byId("columns"), [el("tr", {}, ...head.map((name) => el(name ? "th" : "td", { scope: name ? "col" : null, class: right.has(name) ? "n" : null }, name)))]);
  fill(byId("rows"), found.slice(0, MOST_ROWS).map(([run, record]) => {
    const last = record.losses[1].at(-1);
    const now = record.loss ?? last ?? null;
    const at = record.loss === null && last !== undefined ? ` at ${count(record.losses[0].at(-1))}` : "";
    return el("tr", { "data-run": run.name }, el("th", { scope: "row" }, mark(run.arm), "\u00a0", run.arm),
      el("td", { class: "n" }, count(run.N)), ...more.map((path) => el("td", {}, String(run.cell[path] ?? "–"))),
      el("td", { class: "n" }, count(run.S)), el("td", { class: "n" }, run.seed), trial ? el("td", { class: "n" }, run.lr === null ? "–" : String(run.lr)) : null,
      el("td", { class: `state-${record.status}` }, record.status === "training" ? "in training" : record.status), meter(run, record),
      el("td", { class: "n" }, now === null ? "–" : el("data", { value: now }, loss(now)), el("span", { class: "quiet" }, at)),
      el("td", { class: "n" }, record.loss_a === null ? "–" : el("data", { value: record.loss_a }, loss(record.loss_a))),
      el("td", { class: "words" }, record.why ?? ""));
  }));
  text(byId("shown"), found.length > MOST_ROWS ? `the first ${count(MOST_ROWS)} of ${count(found.length)}` : found.length ? plural(found.length, "run") : "none yet");
}

// All of it

function draw() {
  sayState();
  troubles();
  if (!known.plan || !known.head || !dirty.size) return;
  if (dirty.has("plan")) {
    text(byId("study"), known.plan.study);
    const arms = known.plan.arms.map((one) => {
      const input = el("input", { type: "checkbox", name: "arm", value: one.name });
      input.checked = shown.arms.has(one.name);
      return el("label", {}, input, el("span", {}, mark(one.name), "\u00a0", one.name));
    });
    fill(byId("arms"), arms);
    byId("tuning").hidden = !known.plan.runs.some((run) => run.trial);
    const along = known.plan.runs.some((run) => run.along > 2);
    if (!shown.chosen) shown.part = along ? "validation" : "training";
    for (const input of document.querySelectorAll("[name=part]")) input.checked = input.value === shown.part;
    fill(byId("foot"), [`Store: ${known.plan.store}. This page only reads it, and asks nothing else; what is trained appears a piece at a time, when it is stored. Times are from what is left, not promises.`]);
  }
  headline();
  facts();
  atWork();
  document.querySelector("[name=trials]").checked = trialsShown();
  if (dirty.has("curves") || dirty.has("plan")) {
    panels();
    ends();
    tree();
    rows();
  }
  const updates = known.head.updates;
  document.title = `${updates ? `${percent(updates.trained / updates.planned)} · ` : ""}${known.plan.study} · isoloss`;
  dirty = new Set();
}

function redraw(...parts) {
  for (const part of parts) dirty.add(part);
  requestAnimationFrame(draw);
}

let waiting = null;
let failures = 0;

async function ask() {
  clearTimeout(waiting);
  try {
    const headers = known.tag ? { "If-None-Match": `"${known.tag}"` } : {};
    const since = known.tag ? `?since=${encodeURIComponent(known.tag)}` : "";
    const answer = await fetch(`state.json${since}`, { headers, cache: "no-store", signal: AbortSignal.timeout(20000) });
    if (answer.status !== 304) {
      if (!answer.ok) throw new Error(String(answer.status));
      take(await answer.json());
    }
    [lost, failures, told] = [null, 0, Date.now() / 1000];
  } catch {
    lost ??= Date.now() / 1000;
    failures += 1;
  }
  sayState();
  troubles();
  if (known.plan && known.head) headline();
  const calm = document.hidden ? 10000 : known.head?.phase === "done" ? 4000 : 1000;
  waiting = setTimeout(ask, lost === null ? calm : Math.min(5000, 1000 * failures));
}

byId("controls").addEventListener("change", (event) => {
  const input = event.target;
  if (input.name === "arm") shown.arms[input.checked ? "add" : "delete"](input.value);
  else if (input.name === "trials") shown.trials = input.checked;
  else shown[input.name] = input.value;
  shown.chosen ||= input.name === "part";
  redraw("curves");
});
byId("controls").addEventListener("submit", (event) => event.preventDefault());
byId("show").addEventListener("change", (event) => { shown.table = event.target.value; redraw("curves"); });
document.addEventListener("visibilitychange", () => { if (!document.hidden) ask(); });
new ResizeObserver(() => redraw("curves")).observe(byId("panels"));
ask();
