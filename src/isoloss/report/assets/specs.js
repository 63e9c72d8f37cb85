"use strict";
// What each chart shows of the page's data for what is chosen: axes, layers, names, and the words of every point.
// Prediction beyond the data is dashed and pale everywhere; measurement has marks.
const specs = (data) => {
  const { compact, exact, power } = scales;
  const { arms, sizes, runs, units } = data;
  const axisNames = { S: "updates", D: units.D, C: "training FLOPs" };

  // -- words and numbers ------------------------------------------------------------------------------------------

  const digits = (value) => String(Number(value.toPrecision(6)));
  const times = (value) => `${Number(value.toPrecision(4))}×`;
  const amount = (value, x) => (x === "C" ? power(value) : exact(value));
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const bounds = (low, high, text) => (low == null || high == null ? "no interval" : `[${text(low)}, ${text(high)}]`);
  const by = (list, key) => {
    const map = new Map();
    for (const item of list) {
      const k = key(item);
      if (map.has(k)) map.get(k).push(item);
      else map.set(k, [item]);
    }
    return map;
  };
  const measures = (run) => ["D", "S", "C"].filter((x) => run[x] != null).map((x) => [axisNames[x], amount(run[x], x)]);
  const lossAxis = (kind) => ({
    kind,
    title: `Loss, ${units.loss}`,
    tick: (value) => String(Number(value.toPrecision(4))),
  });
  const amountAxis = (x, kind) => ({
    kind,
    title: axisNames[x],
    zero: true,
    room: x === "C" ? 66 : 54,
    tick: (value) => (x === "C" ? power(value, 0) : compact(value)),
  });
  const look = (arm) => ({ arm, css: arms[arm].css, symbol: arms[arm].symbol, name: arms[arm].name });
  // The smaller of several sizes is paler: the colour says the arm, its strength the size.
  const strength = (size) =>
    sizes.length < 2 ? "" : ` s${3 - Math.floor((3 * sizes.indexOf(size)) / (sizes.length - 1 || 1))}`;

  // -- worth against size -----------------------------------------------------------------------------------------

  function scaleSpec(now) {
    const layers = [],
      labels = [],
      several = data.scale.arms.length;
    const shownArms = data.scale.arms.filter((entry) => now.arms.has(entry.arm));
    const measured = data.scale.measured;
    shownArms.forEach((entry, place) => {
      const style = look(entry.arm),
        points = entry.points.filter((point) => point.worth[now.measure]),
        band = entry.bands[now.measure];
      if (band) {
        const rows = band.N.map((N, i) => i);
        const first = band.N.findIndex((N) => N >= measured[0] * 0.99999),
          last = band.N.findLastIndex((N) => N <= measured[1] * 1.00001);
        const pieces = [
          [rows.slice(0, first + 1), true],
          [rows.slice(first, last + 1), false],
          [rows.slice(last), true],
        ];
        for (const [part, beyond] of pieces) {
          if (part.length < 2) continue;
          const pick = (row) => part.map((i) => row[i]);
          layers.push({
            ...style,
            x: pick(band.N),
            y: pick(band.ratio),
            low: pick(band.low),
            high: pick(band.high),
            line: true,
            band: band.low[0] != null,
            dashed: beyond,
            faint: beyond,
            overflows: beyond,
            tip: (i) => [
              [beyond ? "trend, beyond the sizes" : "trend", times(band.ratio[part[i]])],
              ["interval", bounds(band.low[part[i]], band.high[part[i]], times)],
              ["N", exact(band.N[part[i]])],
            ],
          });
        }
        labels.push({
          arm: entry.arm,
          css: style.css,
          x: band.N.at(-1),
          y: band.ratio.at(-1),
          text: style.name.length > 18 ? `${style.name.slice(0, 17)}…` : style.name,
        });
      }
      const shift = 1 + Math.min(0.035, 0.16 / several) * (place - (several - 1) / 2);
      for (const point of points) {
        const [ratio, low, high] = point.worth[now.measure];
        layers.push({
          ...style,
          size: point.N,
          x: [point.N * shift],
          y: [ratio],
          low: [low],
          high: [high],
          marks: true,
          bars: low != null,
          radius: 5,
          tip: () => [
            ["worth", times(ratio)],
            ["interval", bounds(low, high, times)],
            ["N", exact(point.N)],
          ],
        });
      }
    });
    const names = data.scale.measures[now.measure];
    return {
      key: `scale ${now.measure}`,
      layers,
      labels,
      regions: [{ to: measured[0] }, { from: measured[1], text: "beyond the measured sizes" }],
      x: { kind: "log", title: "N, parameters", room: 54, tick: compact },
      y: {
        kind: "log",
        title: `Worth in ${names}, over ${data.scale.reference}`,
        rules: [1],
        include: [1],
        tick: (value) => `${Number(value.toPrecision(3))}×`,
      },
    };
  }

  // -- loss during training and at the end ------------------------------------------------------------------------

  const visible = (now) => runs.filter((run) => now.arms.has(run.arm) && (now.size === null || run.N === now.size));
  const perUpdate = (run, x) => (x === "S" ? 1 : run.S && run[x] != null ? run[x] / run.S : null);

  // Names at the ends: of the sizes where several are shown, else of the arms.
  function endLabels(now, ends) {
    const found = [];
    if (now.size === null) {
      for (const [size, rows] of by(ends, (end) => end.size)) {
        const far = Math.max(...rows.map((row) => row.x)),
          low = rows.filter((row) => row.x > far / 1.5).reduce((best, row) => (row.y < best.y ? row : best));
        found.push({ size, x: far, y: low.y, text: `N ${compact(size)}` });
      }
      return found;
    }
    return ends.map(({ arm, x, y }) => ({
      arm,
      css: arms[arm].css,
      x,
      y,
      text: arms[arm].name.length > 18 ? `${arms[arm].name.slice(0, 17)}…` : arms[arm].name,
    }));
  }

  // Rows of one line: a run, or the mean over the seeds of a cell where all of them were measured.
  function lineOf(group, now) {
    const curves = group.map(
      (run) => new Map(run[now.part].update.map((update, i) => [update, run[now.part].loss[i]])),
    );
    const rate = perUpdate(group[0], now.x);
    if (rate === null) return [];
    return [...curves[0].keys()]
      .filter((update) => curves.every((curve) => curve.get(update) != null) && (now.xscale === "linear" || update > 0))
      .map((update) => [update * rate, mean(curves.map((curve) => curve.get(update))), update]);
  }

  function curvesSpec(now) {
    const layers = [],
      ends = [],
      averaged = now.seeds === "mean";
    for (const cell of by(visible(now), (run) => `${run.arm} ${run.N}`).values()) {
      const { arm, N } = cell[0],
        x = [],
        y = [],
        notes = [];
      let last = null;
      for (const group of by(cell, (run) => (averaged ? `${run.S}` : `${run.S} ${run.seed}`)).values()) {
        const rows = lineOf(group, now);
        for (const [a, b, update] of rows) {
          x.push(a);
          y.push(b);
          notes.push([group, update]);
        }
        x.push(null);
        y.push(null);
        notes.push(null);
        if (rows.length && (!last || rows.at(-1)[0] > last[0])) last = rows.at(-1);
      }
      layers.push({
        ...look(arm),
        css: arms[arm].css + (now.size === null ? strength(N) : ""),
        size: N,
        x,
        y,
        line: true,
        width: averaged ? 1.7 : 1,
        tip: (i) => [
          ["loss", digits(y[i])],
          ["update", exact(notes[i][1])],
          ...(now.x === "S" ? [] : [[axisNames[now.x], amount(x[i], now.x)]]),
          ["of a run of", `${exact(notes[i][0][0].S)} updates`],
          ["N", exact(N)],
          averaged ? ["seeds", `mean of ${notes[i][0].length}`] : ["seed", String(notes[i][0][0].seed)],
        ],
      });
      if (last) ends.push({ arm, size: N, x: last[0], y: last[1] });
    }
    return {
      key: `curves ${now.x} ${now.xscale} ${now.yscale} ${now.size} ${now.part}`,
      layers,
      labels: endLabels(now, ends),
      x: amountAxis(now.x, now.xscale),
      y: lossAxis(now.yscale),
    };
  }

  function finalSpec(now) {
    const layers = [],
      ends = [],
      each = now.seeds === "each";
    for (const cell of by(
      visible(now).filter((run) => run[now.x] > 0),
      (run) => `${run.arm} ${run.N}`,
    ).values()) {
      const { arm, N } = cell[0],
        css = arms[arm].css + (now.size === null ? strength(N) : "");
      const rows = [...by(cell, (run) => run[now.x])]
        .sort((a, b) => a[0] - b[0])
        .map(([x, group]) => ({ x, group, losses: group.map((run) => run.loss) }));
      const y = rows.map((row) => mean(row.losses));
      layers.push({
        ...look(arm),
        css,
        size: N,
        x: rows.map((row) => row.x),
        y,
        low: rows.map((row) => Math.min(...row.losses)),
        high: rows.map((row) => Math.max(...row.losses)),
        line: true,
        bars: !each,
        marks: !each,
        width: 1.7,
        tip: each
          ? undefined
          : (i) => [
              ["loss", digits(y[i])],
              ["over seeds", bounds(Math.min(...rows[i].losses), Math.max(...rows[i].losses), digits)],
              ...measures(rows[i].group[0]),
              ["N", exact(N)],
              ["seeds", `mean of ${rows[i].group.length}`],
            ],
      });
      if (each) {
        layers.push({
          ...look(arm),
          css,
          size: N,
          x: cell.map((run) => run[now.x]),
          y: cell.map((run) => run.loss),
          marks: true,
          radius: 3.4,
          tip: (i) => [
            ["loss", digits(cell[i].loss)],
            ["seed", String(cell[i].seed)],
            ...measures(cell[i]),
            ["N", exact(N)],
          ],
        });
      }
      ends.push({ arm, size: N, x: rows.at(-1).x, y: y.at(-1) });
    }
    return {
      key: `final ${now.x} ${now.xscale} ${now.yscale} ${now.size}`,
      layers,
      labels: endLabels(now, ends),
      x: amountAxis(now.x, now.xscale),
      y: lossAxis(now.yscale),
    };
  }

  // -- laws -------------------------------------------------------------------------------------------------------

  // Updates or FLOPs of an arm at a size, over its D; null where no run tells.
  function rateOf(arm, N, x) {
    if (x === "D") return 1;
    const run = runs.find((one) => one.arm === arm && (N == null || one.N === N) && one.D && one[x] != null);
    return run && (N != null || sizes.length === 1) ? run[x] / run.D : null;
  }

  function lawSpec(now, index) {
    const law = data.laws[index],
      style = look(law.arm),
      mine = runs.filter((run) => run.arm === law.arm && run.D),
      layers = [],
      labels = [];
    const x = law.curves.every((curve) => rateOf(law.arm, curve.N, now.x)) ? now.x : "D";
    for (const curve of law.curves) {
      const rate = rateOf(law.arm, curve.N, x),
        reach = Math.max(0, ...mine.filter((run) => curve.N == null || run.N === curve.N).map((run) => run.D));
      const inside = curve.x.filter((D) => D <= reach * 1.000001).length,
        size = curve.N ?? undefined;
      for (const [from, to, beyond] of [
        [0, inside, false],
        [Math.max(0, inside - 1), curve.x.length, true],
      ]) {
        if (to - from < 2) continue;
        const part = (row) => row?.slice(from, to),
          low = part(curve.low),
          high = part(curve.high),
          D = part(curve.x),
          y = part(curve.loss);
        layers.push({
          ...style,
          size,
          x: D.map((value) => value * rate),
          y,
          low,
          high,
          line: true,
          band: Boolean(low && high),
          dashed: beyond,
          faint: beyond,
          width: 1.7,
          tip: (i) => [
            [beyond ? "law, beyond the data" : "law", digits(y[i])],
            ["interval", bounds(low?.[i], high?.[i], digits)],
            [axisNames[x], amount(D[i] * rate, x)],
            ...(size ? [["N", exact(size)]] : []),
          ],
        });
      }
      if (curve.x.length)
        labels.push({
          size,
          x: curve.x.at(-1) * rate,
          y: curve.loss.at(-1),
          text: size ? `N ${compact(size)}` : "all sizes",
        });
    }
    for (const [N, group] of by(mine, (run) => run.N)) {
      layers.push({
        ...style,
        size: N,
        x: group.map((run) => run[x]),
        y: group.map((run) => run.loss),
        marks: true,
        radius: 3.4,
        tip: (i) => [
          ["measured", digits(group[i].loss)],
          ["seed", String(group[i].seed)],
          ...measures(group[i]),
          ["N", exact(N)],
        ],
      });
    }
    return {
      key: `law ${index} ${x} ${now.xscale} ${now.yscale}`,
      layers,
      labels,
      x: amountAxis(x, now.xscale),
      y: lossAxis(now.yscale),
    };
  }

  const percent = (actual, predicted) => 100 * (actual / predicted - 1);
  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)} %`;

  function residualSpec(now, index) {
    const law = data.laws[index],
      style = look(law.arm),
      layers = [];
    const x = [...law.residuals, ...law.held].every((row) => rateOf(law.arm, row.N, now.x)) ? now.x : "D";
    const add = (rows, held) => {
      for (const [N, group] of by(rows, (row) => row.N)) {
        const shift = held ? 1.08 : 1,
          at = (row) => row.D * rateOf(law.arm, N, x) * shift,
          y = group.map((row) => percent(row.actual, row.predicted));
        layers.push({
          ...style,
          size: N ?? undefined,
          x: group.map(at),
          y,
          low: group.map((row) => (row.low == null ? null : percent(row.low, row.predicted))),
          high: group.map((row) => (row.high == null ? null : percent(row.high, row.predicted))),
          marks: true,
          bars: held,
          caps: true,
          hollow: held,
          radius: held ? 5 : 3.4,
          tip: (i) => [
            [held ? "held out" : "used in the fit", signed(y[i])],
            ["measured", digits(group[i].actual)],
            ["law", digits(group[i].predicted)],
            ...(held ? [["interval", bounds(group[i].low, group[i].high, digits)]] : []),
            [axisNames[x], amount(at(group[i]) / shift, x)],
            ...(N == null ? [] : [["N", exact(N)]]),
          ],
        });
      }
    };
    add(law.residuals, false);
    add(law.held, true);
    return {
      key: `residual ${index} ${x} ${now.xscale}`,
      layers,
      x: amountAxis(x, now.xscale),
      y: {
        kind: "linear",
        title: "Measured over law, minus 1",
        rules: [0],
        include: [-0.1, 0.1],
        tick: (value) => `${value < 0 ? "−" : ""}${Math.abs(Number(value.toPrecision(3)))} %`,
      },
    };
  }

  function surfaceSpec(now, index) {
    const law = data.laws[index],
      { surface } = law,
      style = look(law.arm),
      layers = [],
      labels = [];
    const { N: heights, D: widths } = surface.extent,
      k = surface.flops_per_nd;
    for (let e = Math.ceil(Math.log10(k * heights[0] * widths[0])); e <= Math.log10(k * heights[1] * widths[1]); e++) {
      const budget = 10 ** e,
        D = [Math.max(widths[0], budget / (k * heights[1])), Math.min(widths[1], budget / (k * heights[0]))];
      layers.push({ css: "budget", x: D, y: D.map((value) => budget / (k * value)), line: true });
      labels.push({
        css: "budget",
        x: D[1],
        y: budget / (k * D[1]),
        shift: D[1] < widths[1] ? -34 : 5,
        rise: D[1] < widths[1] ? -9 : 0,
        text: power(budget, 0),
      });
    }
    const seen = surface.measured;
    layers.push({
      css: "seen",
      x: [0, 1, 1, 0, 0].map((i) => seen.D[i]),
      y: [0, 0, 1, 1, 0].map((i) => seen.N[i]),
      line: true,
    });
    for (const [loss, pieces] of by(surface.lines, (line) => line.loss)) {
      for (const line of pieces)
        layers.push({
          css: "iso",
          symbol: "circle",
          x: line.D,
          y: line.N,
          line: true,
          dashed: !line.measured,
          tip: (i) => [
            [line.measured ? "equal loss" : "equal loss, beyond the data", digits(loss)],
            [units.D, exact(line.D[i])],
            ["N", exact(line.N[i])],
            ["FLOPs", power(k * line.N[i] * line.D[i])],
          ],
        });
      const end = pieces.at(-1);
      labels.push({ css: "iso", x: end.D.at(-1), y: end.N.at(-1), shift: 6, text: String(loss) });
    }
    const best = surface.frontier;
    if (best) {
      const rows = best.C.map((_, i) => i),
        known = rows.filter((i) => best.measured[i]);
      const tip = (part, beyond) => (i) => [
        [beyond ? "best split, beyond the data" : "best split", digits(best.loss[part[i]])],
        ["N", exact(best.N[part[i]])],
        ["interval of N", bounds(best.N_low[part[i]], best.N_high[part[i]], exact)],
        [units.D, exact(best.D[part[i]])],
        ["FLOPs", power(best.C[part[i]])],
      ];
      const banded = rows.filter((i) => best.N_low[i] != null && best.N_high[i] != null);
      layers.push({
        css: style.css,
        faint: true,
        x: banded.map((i) => best.C[i] / (k * best.N_high[i])),
        y: banded.map((i) => best.N_high[i]),
        high: banded.map((i) => best.N_high[i]),
        across: banded.map((i) => best.C[i] / (k * best.N_low[i])),
        low: banded.map((i) => best.N_low[i]),
        band: true,
      });
      const pieces = [
        [known, false],
        [known.length ? rows.filter((i) => i >= known.at(-1)) : rows, true],
        [known.length ? rows.filter((i) => i <= known[0]) : [], true],
      ];
      for (const [part, beyond] of pieces)
        if (part.length > 1)
          layers.push({
            ...style,
            arm: undefined,
            x: part.map((i) => best.D[i]),
            y: part.map((i) => best.N[i]),
            line: true,
            width: 2.6,
            dashed: beyond,
            tip: tip(part, beyond),
          });
    }
    for (const [N, mine] of by(
      runs.filter((run) => run.arm === law.arm && run.D),
      (run) => run.N,
    )) {
      const cells = [...by(mine, (run) => run.D)];
      layers.push({
        ...style,
        size: N,
        x: cells.map(([D]) => D),
        y: cells.map(() => N),
        marks: true,
        radius: 3.6,
        tip: (i) => [
          ["measured", digits(mean(cells[i][1].map((run) => run.loss)))],
          ["seeds", `mean of ${cells[i][1].length}`],
          [units.D, exact(cells[i][0])],
          ["N", exact(N)],
        ],
      });
    }
    return {
      key: `surface ${index}`,
      layers,
      labels,
      x: { ...amountAxis("D", "log"), fixed: widths },
      y: { kind: "log", title: "N, parameters", fixed: heights, tick: compact },
    };
  }

  return {
    scale: scaleSpec,
    curves: curvesSpec,
    final: finalSpec,
    law: lawSpec,
    residual: residualSpec,
    surface: surfaceSpec,
  };
};
