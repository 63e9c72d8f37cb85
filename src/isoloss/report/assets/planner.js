"use strict";
// The planner: answers for a budget, computed here from the numbers of a fitted law as `laws/outlook.py`, `laws/budget.py`
// and `laws/next_run.py` do, in the same order, so that both give the same figures. Without it the page shows one answer.
(() => {
  const $ = (id) => document.getElementById(id);
  const finite = (value) => (Number.isFinite(value) ? value : null);
  const exp = (value) => (Number.isFinite(value) ? finite(Math.exp(value)) : null);
  // Of the variables as log N moves at fixed compute.
  const ALONG = { N: 1, D: -1, C: 0, M: -2 };

  class Law {
    constructor(record) {
      Object.assign(this, record);
      this.o = record.options;
      this.logK = Math.log(record.k);
      this.names = record.program.map(([name]) => name);
      this.inputs = record.program.map(([, ...inputs]) => inputs);
      const count = record.draws ? record.draws[Object.keys(record.draws)[0]].length : 0;
      this.draws = Array.from({ length: count }, (_, i) => this.#prepared((name) => record.draws[name][i]));
      this.point = this.#prepared((name) => record.parameters[name]);
      this.values = new Float64Array(record.program.length);
      this.slopes = new Float64Array(record.program.length);
      this.moving = this.#moving();
      this.bounded = count > 0 || this.growth !== null;
    }

    // Steps that hang on a variable; all others have one value for each set of parameters.
    #moving() {
      const hangs = [];
      this.names.forEach((name, i) => {
        const inputs = this.inputs[i], leaf = name === "parameter" || name === "constant";
        hangs[i] = name === "variable" ? !(inputs[0] in this.others) : !leaf && inputs.some((j) => hangs[j]);
      });
      return hangs.flatMap((yes, i) => (yes ? [i] : []));
    }

    #prepared(parameter) {
      const values = new Float64Array(this.program.length);
      const moves = new Float64Array(this.program.length);
      this.names.forEach((name, i) => {
        const inputs = this.inputs[i];
        if (name === "parameter") values[i] = parameter(inputs[0]);
        else if (name === "constant") values[i] = inputs[0];
        else if (name === "variable") values[i] = inputs[0] in this.others ? Math.log(this.others[inputs[0]]) : NaN;
        else Law.step(name, inputs, i, values, moves);
      });
      return values;
    }

    static step(name, at, i, v, s) {
      const a = v[at[0]], b = v[at[1]], da = s[at[0]], db = s[at[1]];
      switch (name) {
        case "add": v[i] = a + b; s[i] = da + db; break;
        case "subtract": v[i] = a - b; s[i] = da - db; break;
        case "multiply": v[i] = a * b; s[i] = (da ? da * b : 0) + (db ? a * db : 0); break;
        case "divide": v[i] = a / b; s[i] = da || db ? (da - v[i] * db) / b : 0; break;
        case "negative": v[i] = -a; s[i] = -da; break;
        case "power": v[i] = a ** b; s[i] = (da ? b * a ** (b - 1) * da : 0) + (db ? v[i] * Math.log(a) * db : 0); break;
        case "exp": v[i] = Math.exp(a); s[i] = da ? v[i] * da : 0; break;
        case "log": v[i] = Math.log(a); s[i] = da ? da / a : 0; break;
        case "log1p": v[i] = Math.log1p(a); s[i] = da ? da / (1 + a) : 0; break;
        case "tanh": v[i] = Math.tanh(a); s[i] = da ? (1 - v[i] * v[i]) * da : 0; break;
        case "absolute": v[i] = Math.abs(a); s[i] = Math.sign(a) * da; break;
        case "sigmoid": v[i] = 0.5 * (1 + Math.tanh(0.5 * a)); s[i] = v[i] * (1 - v[i]) * da; break;
        case "softplus":
          v[i] = Math.max(a, 0) + Math.log1p(Math.exp(-Math.abs(a))); s[i] = 0.5 * (1 + Math.tanh(0.5 * a)) * da; break;
        case "minimum": v[i] = Math.min(a, b); s[i] = b < a ? db : da; break;
        case "maximum": v[i] = Math.max(a, b); s[i] = b > a ? db : da; break;
        case "less": v[i] = a < b ? 1 : 0; s[i] = 0; break;
        case "where": v[i] = v[at[a ? 1 : 2]]; s[i] = s[at[a ? 1 : 2]]; break;
        case "logaddexp": {
          let top = -Infinity, sum = 0, slope = 0;
          for (const j of at) top = Math.max(top, v[j]);
          if (!Number.isFinite(top)) top = 0;
          for (const j of at) sum += Math.exp(v[j] - top);
          v[i] = top + Math.log(sum);
          for (const j of at) if (s[j]) slope += Math.exp(v[j] - v[i]) * s[j];
          s[i] = slope;
          break;
        }
        default: throw new Error(`no such step: ${name}`);
      }
    }

    // log L of one set of parameters at log N and log D; `this.slope` is its slope along log N at fixed compute.
    run(set, logN, logD) {
      const v = this.values, s = this.slopes;
      v.set(set);
      for (const i of this.moving) {
        const name = this.names[i], at = this.inputs[i];
        if (name === "variable") {
          v[i] = at[0] === "N" ? logN : at[0] === "D" ? logD : at[0] === "C" ? this.logK + logN + logD : logD - logN;
          s[i] = ALONG[at[0]];
        } else Law.step(name, at, i, v, s);
      }
      this.slope = s[s.length - 1];
      return v[v.length - 1];
    }

    optimum(set, logPool) {
      const slope = (logN) => { this.run(set, logN, logPool - logN); return this.slope; };
      if (!(slope(0) < 0 && slope(logPool) > 0)) return NaN;
      let low = 0, high = logPool;
      for (let i = 0; i < this.o.steps; i++) {
        const middle = 0.5 * (low + high);
        if (slope(middle) > 0) high = middle; else low = middle;
      }
      return 0.5 * (low + high);
    }

    sameLoss(set, logN, target) {
      if (!(this.run(set, logN, this.o.widest) <= target) || this.run(set, logN, 0) < target) return NaN;
      let low = 0, high = this.o.widest;
      for (let i = 0; i < this.o.steps; i++) {
        const middle = 0.5 * (low + high);
        if (this.run(set, logN, middle) > target) low = middle; else high = middle;
      }
      return 0.5 * (low + high);
    }

    // Where a condition that holds at `inside` ends towards `outside`.
    edge(holds, inside, outside) {
      if (holds(outside)) return outside;
      for (let i = 0; i < this.o.steps; i++) {
        const middle = 0.5 * (inside + outside);
        if (holds(middle)) inside = middle; else outside = middle;
      }
      return inside;
    }

    // The compute at which D tokens are the best amount of data.
    computeFor(D) {
      const logD = Math.log(D), start = this.logK + logD;
      const data = (logC) => logC - this.logK - this.optimum(this.point, logC - this.logK);
      const logC = this.edge((at) => data(at) <= logD, start, start + this.o.widest);
      return Math.abs(data(logC) - logD) < 1e-6 ? Math.exp(logC) : NaN;
    }

    // Distances of interval ends from the middle, from deviations of the draws' logarithms.
    ends(moved) {
      const known = moved.filter(Number.isFinite).sort((a, b) => a - b), n = known.length;
      if (!n) return [NaN, NaN];
      const at = (place) => {
        const rank = Math.min(Math.max(place, 0), n - 1), low = Math.floor(rank), high = Math.min(low + 1, n - 1);
        return known[low] + (known[high] - known[low]) * (rank - low);
      };
      if (this.few) {
        const reach = this.normal * 0.5 * (at((n - 1) * this.one) - at((n - 1) * (1 - this.one)));
        return [-this.widening * reach, this.widening * reach];
      }
      const tail = 0.5 * (1 - this.level);
      return [this.widening * at((n + 1) * tail - 1), this.widening * at((n + 1) * (1 - tail) - 1)];
    }

    distance(logN, logD, support = this.support) {
      if (!support) return 0;
      const places = { N: logN, D: logD, C: this.logK + logN + logD };
      return Object.entries(support).reduce(
        (far, [name, [low, high]]) => Math.max(far, places[name] - Math.log(high), Math.log(low) - places[name]), 0);
    }

    half(distance) {
      return this.growth === null ? 0 : Math.hypot(this.growth * (Math.max(distance, 0) + this.offset), this.row);
    }

    // [below, above] of the bootstrap's interval in log loss; 0 without draws.
    spread(logN, logD, middle) {
      if (!this.draws.length) return [0, 0];
      const [low, high] = this.ends(this.draws.map((set) => this.run(set, logN, logD) - middle));
      return [Number.isFinite(low) ? -low : 0, Number.isFinite(high) ? high : 0];
    }

    // [low, middle, high] of the loss of one new run.
    band(logN, logD) {
      const middle = this.run(this.point, logN, logD);
      if (!this.bounded) return [null, finite(Math.exp(middle)), null];
      const [below, above] = this.spread(logN, logD, middle), half = this.half(this.distance(logN, logD));
      return [middle - Math.hypot(below, half), middle, middle + Math.hypot(above, half)].map(exp);
    }

    times(N, D) {
      const places = { N, D, C: this.k * N * D };
      const found = { N: 1, D: 1, C: 1 };
      for (const [name, [low, high]] of Object.entries(this.support ?? {})) {
        found[name] = Math.max(places[name] / high, low / places[name], 1);
      }
      return found;
    }

    refusal(N, D) {
      const times = this.times(N, D), lost = !Number.isFinite(N) || !Number.isFinite(D);
      const worst = Object.keys(times).reduce((most, name) => (times[name] > times[most] ? name : most));
      if (!lost && times[worst] <= this.reach) return null;
      const [least, most] = this.limits ?? [];
      const allowed = this.limits ? `; allowed: ${g3(least)} to ${g3(most)} FLOPs at the best split` : "";
      if (lost) return `law ${this.law} has no best size at this compute: its loss does not turn with N${allowed}`;
      const [low, high] = this.support[worst], side = { N, D, C: this.k * N * D }[worst] > high ? "above" : "below";
      return `${worst} would be ${g3(times[worst])} times ${side} the measured ${g3(low)} to ${g3(high)}, and the reach of `
        + `this law is ${g3(this.reach)} times${allowed}`;
    }

    answer(C, N = null) {
      const logC = Math.log(C), best = this.optimum(this.point, logC - this.logK);
      const logN = N === null ? best : Math.log(N), logD = logC - this.logK - logN;
      const place = { C, N: exp(logN), D: exp(logD), M: exp(logD - logN) };
      const refused = this.refusal(Math.exp(logN), Math.exp(logD));
      if (refused) return { ...place, refused };
      const [low, middle, high] = this.band(logN, logD);
      return {
        ...place, refused: null, loss: middle, low, high, times: this.times(Math.exp(logN), Math.exp(logD)),
        distance: this.distance(logN, logD), best: this.#best(logC, best), alternatives: this.#alternatives(logN, logD),
        curve: this.#curve(logN, logC), iso: this.#iso(logN, logD), next: this.#next(logN, logD, this.o.cap * C),
      };
    }

    #best(logC, logN) {
      if (!Number.isFinite(logN)) return null;
      const pool = logC - this.logK;
      const [low, high] = this.ends(this.draws.map((set) => this.optimum(set, pool) - logN));
      return {
        N: Math.exp(logN), D: Math.exp(pool - logN), loss: Math.exp(this.run(this.point, logN, pool - logN)),
        N_low: exp(logN + low), N_high: exp(logN + high), D_low: exp(pool - logN - high), D_high: exp(pool - logN - low),
      };
    }

    #alternatives(logN, logD) {
      const target = this.run(this.point, logN, logD), aims = this.draws.map((set) => this.run(set, logN, logD));
      return this.o.factors.map((factor) => {
        const size = logN + Math.log(factor), data = this.sameLoss(this.point, size, target);
        const extra = size + data - logN - logD;
        const moved = this.draws.map((set, i) => size + this.sameLoss(set, size, aims[i]) - logN - logD - extra);
        const [low, high] = Number.isFinite(extra) ? this.ends(moved) : [NaN, NaN];
        return {
          factor, N: exp(size), D: exp(data), C: exp(this.logK + size + data), compute: exp(extra),
          low: exp(extra + low), high: exp(extra + high),
        };
      });
    }

    #sizes(logN, count) {
      return Array.from({ length: count }, (_, i) => logN + Math.log(this.o.spread) * (-1 + (2 * i) / (count - 1)));
    }

    #curve(logN, logC) {
      const sizes = this.#sizes(logN, this.o.curve), data = sizes.map((size) => logC - this.logK - size);
      const bands = sizes.map((size, i) => this.band(size, data[i]));
      const [low, loss, high] = [0, 1, 2].map((i) => bands.map((ends) => ends[i]));
      return { N: sizes.map(exp), D: data.map(exp), loss, low, high };
    }

    #iso(logN, logD) {
      const target = this.run(this.point, logN, logD), sizes = this.#sizes(logN, this.o.iso);
      return { N: sizes.map(exp), D: sizes.map((size) => exp(this.sameLoss(this.point, size, target))) };
    }

    candidates(logN, logD, cost) {
      const [nLow, nTop] = this.support.N.map(Math.log), [dLow, dTop] = this.support.D.map(Math.log);
      const nHigh = Math.max(nTop, logN), dHigh = Math.max(dTop, logD), found = [];
      const mLow = Math.min(Math.log(this.ratios[0]), logD - logN), mHigh = Math.max(Math.log(this.ratios[1]), logD - logN);
      for (let step = 0; step < this.o.costs; step++) {
        const pool = Math.log(cost / this.o.cheaper ** step);
        if (pool < Math.log(this.support.C[0])) break;
        for (let i = 0; i < this.o.sizes; i++) {
          const size = nLow + ((nHigh - nLow) * i) / (this.o.sizes - 1), data = pool - this.logK - size;
          const inside = data >= dLow - 1e-9 && data <= dHigh + 1e-9;
          if (inside && data - size >= mLow - 1e-9 && data - size <= mHigh + 1e-9) found.push({ kind: "new", size, data });
        }
      }
      for (const [n, d] of this.design) {
        if (this.k * n * d <= cost) found.push({ kind: "repeat", size: Math.log(n), data: Math.log(d) });
      }
      return found;
    }

    // Share of the bootstrap spread at a plan that is left after each run.
    #left(logN, logD, runs) {
      if (!this.draws.length || !runs.length) return runs.map(() => 1);
      let here = this.draws.map((set) => this.run(set, logN, logD));
      let there = this.draws.map((set) => runs.map((run) => this.run(set, run.size, run.data)));
      const fine = here.map((value, i) => Number.isFinite(value) && there[i].every(Number.isFinite));
      here = here.filter((_, i) => fine[i]);
      there = there.filter((_, i) => fine[i]);
      const n = here.length, scale = this.widening ** 2 / Math.max(n - 1, 1), mean = here.reduce((a, b) => a + b, 0) / n;
      const variance = scale * here.reduce((sum, value) => sum + (value - mean) ** 2, 0);
      if (!(variance > 0)) return runs.map(() => 1);
      return runs.map((_, j) => {
        const middle = there.reduce((sum, row) => sum + row[j], 0) / n;
        let own = 0, shared = 0;
        there.forEach((row, i) => {
          own += (row[j] - middle) ** 2;
          shared += (row[j] - middle) * (here[i] - mean);
        });
        return Math.sqrt(Math.max(1 - (scale * shared) ** 2 / (scale * own + this.noise ** 2) / variance, 0));
      });
    }

    #next(logN, logD, cap) {
      if (!this.support || !this.bounded) return null;
      const runs = this.candidates(logN, logD, cap), [low, middle, high] = this.band(logN, logD);
      const width = Math.log(high / low), found = { cap, before: width, ranked: [], most: null };
      if (!runs.length || !(width > 0)) return found;
      const [below, above] = this.spread(logN, logD, this.run(this.point, logN, logD)), left = this.#left(logN, logD, runs);
      const rows = runs.map(({ kind, size, data }, i) => {
        const logC = this.logK + size + data, at = { N: size, D: data, C: logC }, grown = {};
        for (const [name, ends] of Object.entries(this.support)) {
          grown[name] = [Math.min(ends[0], Math.exp(at[name])), Math.max(ends[1], Math.exp(at[name]))];
        }
        const half = this.half(this.distance(logN, logD, grown));
        const under = Math.hypot(below * left[i], half), over = Math.hypot(above * left[i], half), spent = Math.exp(logC);
        return {
          kind, N: Math.exp(size), D: Math.exp(data), C: spent,
          low: middle * Math.exp(-under), high: middle * Math.exp(over),
          narrower: (width - under - over) / width, per_flop: (width - under - over) / spent,
        };
      });
      const cost = (row) => Math.round(1e6 * Math.log(row.C)), useful = [];
      let saved = this.o.relevant / this.o.more;
      for (const row of [...rows].sort((a, b) => cost(a) - cost(b) || b.narrower - a.narrower)) {
        if (row.narrower >= this.o.more * saved) {
          saved = row.narrower;
          useful.push(row);
        }
      }
      found.ranked = useful.sort((a, b) => b.per_flop - a.per_flop);
      const most = rows.reduce((best, row) => (row.narrower > best.narrower ? row : best));
      found.most = most.narrower > 0 ? most : null;
      return found;
    }
  }

  // Numbers as Python's "%.3g" writes them.
  function g3(value) {
    if (value === 0) return "0";
    const exponent = Number(value.toExponential(2).split("e")[1]);
    if (exponent >= -4 && exponent < 3) return String(Number(value.toPrecision(3)));
    const [digits, power] = String(Number(value.toPrecision(3)).toExponential()).split("e");
    return `${digits}e${power[0]}${power.slice(1).padStart(2, "0")}`;
  }
  globalThis.isoloss = { ...globalThis.isoloss, Law, g3 };
})();

// ---- the section
(() => {
  const $ = (id) => document.getElementById(id);
  if (!$("planner-data")) return;
  const data = JSON.parse($("planner-data").textContent);
  const { Law, g3 } = globalThis.isoloss;
  const laws = data.entries.map((entry) => new Law(entry.outlook));
  const form = $("planner-form"), slide = $("planner-slide"), field = $("planner-budget"), size = $("planner-size");
  const STOPS = Number(slide.max);
  const state = { law: 0, kind: "flops", amount: data.start, N: null };
  const svgNS = "http://www.w3.org/2000/svg";

  const short = (value) => {
    if (value === null) return "–";
    for (const [limit, suffix] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
      if (Math.abs(value) >= limit * 0.9995) return `${digits(value / limit)}${suffix}`;
    }
    return digits(value);
  };
  const digits = (value) => (Math.abs(value) >= 1000 ? value.toFixed(0) : g3(value));
  const flops = (value) => {
    const [mantissa, power] = value.toExponential(2).split("e");
    return `${mantissa}×10${[...power.replace("+", "")].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("")}`;
  };
  const hours = (value) => (value < 1 / 60 ? `${g3(3600 * value)} seconds` : value < 1 ? `${g3(60 * value)} minutes` : value < 72 ? `${g3(value)} hours` : `${digits(value / 24)} days`);
  const between = (low, high, text) => (low === null || high === null ? "" : `[${text(low)}, ${text(high)}]`);
  const loss = (value) => value.toFixed(4);

  // FLOP/s of the devices together, or null where a number is missing.
  function speed() {
    const device = data.devices.find((one) => one.name === $("planner-device").value);
    const peak = device ? device.peak : Number($("planner-peak").value);
    const found = peak * (device?.mfu ?? Number($("planner-mfu").value)) * Number($("planner-devices").value);
    return found > 0 && Number.isFinite(found) ? found : null;
  }

  // Compute of the budget; NaN where there is none.
  function compute(law) {
    if (!(state.amount > 0)) return NaN;
    if (state.kind === "flops") return state.amount;
    if (state.kind === "hours") return speed() === null ? NaN : 3600 * state.amount * speed();
    return state.N === null ? law.computeFor(state.amount) : law.k * state.N * state.amount;
  }

  // Budgets that the slider offers, as logarithms: those that the law answers.
  function ends(law) {
    let [low, high] = (law.limits ?? [1e12, 1e26]).map(Math.log);
    if (state.kind === "hours") return [low, high].map((at) => at - Math.log(3600 * (speed() ?? 1)));
    if (state.kind === "tokens") {
      return [low + 1e-6, high - 1e-6].map((at) => at - law.logK - law.optimum(law.point, at - law.logK));
    }
    return [low, high];
  }

  const text = (id, value) => { $(id).textContent = value; };
  function put(id, value, shown, interval = "") {
    $(id).value = value === null ? "" : String(value);
    text(id, shown);
    if ($(`${id}-interval`)) text(`${id}-interval`, interval);
  }
  function rows(id, found, empty) {
    const cell = (name, shown, kind) => Object.assign(document.createElement(name), { textContent: shown, className: kind });
    const line = (...cells) => {
      const made = document.createElement("tr");
      made.append(...cells);
      return made;
    };
    const full = found.map(([first, ...rest]) => line(cell("th", first, ""), ...rest.map((shown) => cell("td", shown, "n"))));
    full.forEach((row) => { row.firstChild.scope = "row"; });
    const none = cell("td", empty, "quiet");
    none.colSpan = 6;
    $(id).replaceChildren(...(full.length ? full : [line(none)]));
  }
  const items = (id, words) => $(id).replaceChildren(...words.map((line) => {
    const made = document.createElement("li");
    made.textContent = line;
    return made;
  }));

  function practice(entry, N) {
    if (!entry.rule) return entry.words;
    const value = entry.lr.coefficient * N ** entry.lr.exponent, at = entry.lr.batch;
    const scaled = at ? `; ${g3(value * at.factor)} at that batch (${at.rule} rule)` : "";
    return [...entry.words, `Learning rate: ${g3(value)}${scaled}, ${entry.rule}.`];
  }

  function show() {
    const law = laws[state.law], entry = data.entries[state.law], C = compute(law);
    const found = C > 0 && Number.isFinite(C) ? law.answer(C, state.N) : { refused: "the budget is no number above 0", C: null };
    if (state.kind === "tokens" && state.amount > 0 && !(C > 0)) found.refused = `no size makes ${short(state.amount)} ${data.unit} the best amount`;
    state.found = found;
    document.querySelectorAll(".planner-time").forEach((one) => { one.hidden = state.kind !== "hours"; });
    document.querySelector(".planner-peak").hidden = state.kind !== "hours" || $("planner-device").value !== "";
    const own = data.devices.find((one) => one.name === $("planner-device").value)?.mfu;
    if (own) document.querySelector(".planner-mfu").hidden = true;
    text("planner-mfu-text", Number($("planner-mfu").value).toFixed(2));
    text("planner-budget-label", { flops: "Training FLOPs", hours: "Hours", tokens: `Data D, ${data.unit}` }[state.kind]);
    const away = !found.refused && found.distance > Math.log(data.barely);
    const warning = $("planner-warning");
    warning.hidden = !found.refused && !away;
    warning.textContent = found.refused ? `No answer: ${found.refused}.` : away ? beyond(law, found) : "";
    $("planner-answer").hidden = Boolean(found.refused);
    announce(said(entry, found));
    items("planner-notes", entry.outlook.notes);
    if (found.refused) return;
    const ratio = found.best ? Math.log2(found.N / found.best.N) : 0;
    size.value = String(ratio);
    text("planner-size-text", state.N === null ? "1× (best)" : `${g3(2 ** ratio)}×`);
    size.setAttribute("aria-valuetext", `${g3(2 ** ratio)} times the best size, N ${short(found.N)}`);
    const best = state.N === null ? found.best : null;
    put("planner-N", found.N, short(found.N), best ? between(best.N_low, best.N_high, short) : "");
    put("planner-D", found.D, short(found.D), best ? between(best.D_low, best.D_high, short) : "");
    put("planner-M", found.M, g3(found.M));
    put("planner-loss", found.loss, loss(found.loss), between(found.low, found.high, loss));
    $("planner-loss").dataset.low = found.low ?? "";
    $("planner-loss").dataset.high = found.high ?? "";
    $("planner-cost").hidden = state.kind === "flops";
    put("planner-C", found.C, `${flops(found.C)} FLOPs`);
    text("planner-hours", state.kind === "hours" ? hours(state.amount) : "");
    items("planner-practice", practice(entry, found.N));
    rows("planner-others", found.alternatives.map((other) => [
      `${other.factor}×`, short(other.N), other.D === null ? "never" : short(other.D),
      other.D === null ? "" : `${other.compute.toFixed(2)}× ${between(other.low, other.high, (v) => v.toFixed(2))}`,
    ]), "");
    rows("planner-runs", (found.next?.ranked ?? []).map((run) => [
      run.kind === "repeat" ? "another seed" : "new run", short(run.N), short(run.D),
      `${Number((100 * run.C / found.C).toPrecision(2))} %`, between(run.low, run.high, loss), `${(100 * run.narrower).toFixed(0)} %`,
    ]), found.next ? "No run for a tenth of the budget would narrow the interval by 5 %." : "Without an interval there is nothing to narrow.");
    charts(law, found);
  }

  function said(entry, found) {
    if (found.refused) return `No answer for this budget by ${entry.label}.`;
    const budget = { flops: () => `${flops(found.C)} FLOPs`, hours: () => hours(state.amount), tokens: () => `${short(state.amount)} ${data.unit}` };
    const interval = found.low === null ? "" : `, ${between(found.low, found.high, loss)}`;
    return `For ${budget[state.kind]()}, by ${entry.label}: N ${short(found.N)}, D ${short(found.D)}, loss ${loss(found.loss)}${interval}.`;
  }

  function beyond(law, found) {
    const where = Object.entries(found.times).filter(([, times]) => times > data.barely).map(([name, times]) => {
      const side = found[name] > law.support[name][1] ? "above" : "below";
      return `${name} ${g3(times)}× ${side}`;
    });
    return `Beyond what was measured (${where.join(", ")}): extrapolated, and the interval is wider for it.`;
  }

  // A reader hears the end of a move, not every step of it.
  let waiting = 0;
  function announce(sentence) {
    clearTimeout(waiting);
    waiting = setTimeout(() => { if ($("planner-said").textContent !== sentence) text("planner-said", sentence); }, 250);
  }

  // ---- charts: plain SVG in the page's own colours, so that light, dark and paper need no redrawing
  function element(name, attributes, content) {
    const made = document.createElementNS(svgNS, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (content !== undefined) made.textContent = content;
    return made;
  }

  function axes(svg, xs, ys, xName, yName, yText) {
    const width = Math.max(svg.parentElement.clientWidth, 260), height = Math.round(Math.min(300, Math.max(220, width * 0.55)));
    const box = { left: 52, right: width - 12, top: 22, bottom: height - 40 };
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    const x = (value) => box.left + ((Math.log(value) - Math.log(xs[0])) / (Math.log(xs[1]) - Math.log(xs[0]))) * (box.right - box.left);
    const y = (value) => box.bottom - ((value - ys[0]) / (ys[1] - ys[0])) * (box.bottom - box.top);
    for (let power = Math.ceil(Math.log10(xs[0])); power <= Math.log10(xs[1]); power++) {
      const at = x(10 ** power);
      svg.append(element("line", { class: "planner-grid", x1: at, x2: at, y1: box.top, y2: box.bottom }));
      svg.append(element("text", { class: "planner-tick", x: at, y: box.bottom + 16, "text-anchor": "middle" }, short(10 ** power)));
    }
    const span = (ys[1] - ys[0]) / 6, unit = 10 ** Math.floor(Math.log10(span)), step = [1, 2, 5, 10].find((m) => m * unit >= span) * unit;
    for (let at = Math.ceil(ys[0] / step) * step; at <= ys[1] + 1e-9 * step; at += step) {
      svg.append(element("line", { class: "planner-grid", x1: box.left, x2: box.right, y1: y(at), y2: y(at) }));
      svg.append(element("text", { class: "planner-tick", x: box.left - 6, y: y(at) + 4, "text-anchor": "end" }, yText(at, step)));
    }
    svg.append(element("text", { class: "planner-tick", x: (box.left + box.right) / 2, y: height - 4, "text-anchor": "middle" }, xName));
    svg.append(element("text", { class: "planner-tick", x: 4, y: 10 }, yName));
    return { x, y, box };
  }

  const path = (points) => points.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");

  function charts(law, found) {
    document.querySelectorAll(".planner-figure").forEach((one) => { one.hidden = false; });
    const decimals = (at, step) => at.toFixed(Math.max(0, -Math.floor(Math.log10(step))));
    const curve = found.curve, n = curve.N.length, lows = curve.low.map((value, i) => value ?? curve.loss[i]);
    const highs = curve.high.map((value, i) => value ?? curve.loss[i]);
    const bottom = Math.min(...lows), middle = Math.max(curve.loss[n >> 2], curve.loss[n - 1 - (n >> 2)], found.high ?? 0);
    const top = bottom + 1.35 * (middle - bottom);
    const svg = $("planner-chart"), plot = axes(svg, [curve.N[0], curve.N[n - 1]], [bottom, top], "parameters N", "loss", decimals);
    const cut = (value) => Math.min(value, top), at = (i, values) => [plot.x(curve.N[i]), plot.y(cut(values[i]))];
    const all = [...curve.N.keys()];
    svg.append(element("path", { class: "planner-band", d: `${path([...all.map((i) => at(i, highs)), ...all.reverse().map((i) => at(i, lows))])}Z` }));
    all.reverse();
    const inside = all.map((i) => law.distance(Math.log(curve.N[i]), Math.log(curve.D[i])) <= Math.log(data.barely));
    let from = 0;
    for (let i = 1; i <= n; i++) {
      if (i < n && inside[i] === inside[from] && curve.loss[i] <= top === curve.loss[from] <= top) continue;
      const part = all.slice(from, Math.min(i + 1, n));
      if (curve.loss[from] <= top || (i < n && curve.loss[i] <= top)) {
        svg.append(element("path", { class: inside[from] ? "planner-line" : "planner-line planner-far", d: path(part.map((j) => at(j, curve.loss))) }));
      }
      from = i;
    }
    if (found.low !== null) {
      svg.append(element("line", { class: "planner-mark", x1: plot.x(found.N), x2: plot.x(found.N), y1: plot.y(found.low), y2: plot.y(cut(found.high)) }));
    }
    svg.append(element("circle", { class: "planner-dot", cx: plot.x(found.N), cy: plot.y(cut(found.loss)), r: 5 }));
    reading(svg, plot, curve.N, "planner-read", (i) => `N ${short(curve.N[i])}, D ${short(curve.D[i])}: ${loss(curve.loss[i])} ${between(curve.low[i], curve.high[i], loss)}`);

    const iso = $("planner-iso"), known = found.iso.N.flatMap((N, i) => (found.iso.D[i] === null ? [] : [[N, (N * found.iso.D[i]) / (found.N * found.D)]]));
    const most = Math.min(4, Math.max(...known.map(([, times]) => times))), near = known.filter(([, times]) => times <= most);
    const place = axes(iso, [found.iso.N[0], found.iso.N.at(-1)], [Math.min(1, ...near.map(([, times]) => times)) - 0.05, most], "parameters N", "compute, × this plan's", decimals);
    iso.append(element("path", { class: "planner-line", d: path(near.map(([N, times]) => [place.x(N), place.y(times)])) }));
    iso.append(element("circle", { class: "planner-dot", cx: place.x(found.N), cy: place.y(1), r: 5 }));
    reading(iso, place, near.map(([N]) => N), "planner-iso-read", (i) => `N ${short(near[i][0])}: ${near[i][1].toFixed(2)}× the compute`);
  }

  function reading(svg, plot, sizes, output, words) {
    svg.onpointermove = (event) => {
      const scale = svg.viewBox.baseVal.width / svg.getBoundingClientRect().width, px = (event.clientX - svg.getBoundingClientRect().left) * scale;
      const nearest = sizes.reduce((best, N, i) => (Math.abs(plot.x(N) - px) < Math.abs(plot.x(sizes[best]) - px) ? i : best), 0);
      text(output, sizes.length ? words(nearest) : "");
    };
    svg.onpointerleave = () => text(output, "");
  }

  // ---- controls
  function toSlider() {
    const [low, high] = ends(laws[state.law]);
    slide.value = String(Math.round((STOPS * (Math.log(state.amount) - low)) / (high - low)));
    slide.setAttribute("aria-valuetext", state.kind === "flops" ? `${flops(state.amount)} FLOPs` : state.kind === "hours" ? hours(state.amount) : `${short(state.amount)} ${data.unit}`);
  }
  const toField = () => {
    const amount = Number(state.amount.toPrecision(4));
    field.value = amount < 1e7 ? String(amount) : amount.toExponential();
  };
  let drawing = 0;
  const later = () => { cancelAnimationFrame(drawing); drawing = requestAnimationFrame(show); };

  slide.addEventListener("input", () => {
    const [low, high] = ends(laws[state.law]);
    state.amount = Math.exp(low + ((high - low) * Number(slide.value)) / STOPS);
    state.amount = Number(state.amount.toPrecision(4));
    toField();
    toSlider();
    later();
  });
  field.addEventListener("input", () => { state.amount = Number(field.value); if (state.amount > 0) toSlider(); later(); });
  size.addEventListener("input", () => {
    const found = state.found, ratio = Number(size.value);
    if (!found?.best) return;
    state.N = Math.abs(ratio) < Number(size.step) / 2 ? null : found.best.N * 2 ** ratio;
    later();
  });
  $("planner-best").addEventListener("click", () => { state.N = null; later(); });
  $("planner-law")?.addEventListener("change", (event) => { state.law = Number(event.target.value); state.N = null; toSlider(); later(); });
  for (const id of ["planner-device", "planner-devices", "planner-peak", "planner-mfu"]) {
    $(id).addEventListener("input", () => { toSlider(); later(); });
  }
  form.addEventListener("change", (event) => {
    if (event.target.name !== "planner-kind") return;
    const C = state.found?.C ?? data.start, D = state.found?.D ?? null;
    state.kind = event.target.value;
    state.N = null;
    // The same plan, said in the other unit.
    if (state.kind === "flops") state.amount = C;
    else if (state.kind === "hours") state.amount = C / (3600 * (speed() ?? 1));
    else if (D !== null) state.amount = D;
    state.amount = Number(state.amount.toPrecision(4));
    toField();
    toSlider();
    later();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  if (typeof ResizeObserver !== "undefined") {
    new ResizeObserver(() => { if (state.found && !state.found.refused) charts(laws[state.law], state.found); }).observe($("planner"));
  }

  form.hidden = false;
  state.amount = Number(state.amount.toPrecision(4));
  toField();
  toSlider();
  show();
  document.documentElement.dataset.planner = "ready";
})();
