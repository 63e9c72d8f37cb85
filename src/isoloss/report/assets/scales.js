"use strict";
// What charts are made of: numbers as text, scales, ticks, marks, elements.
const scales = (() => {
  const NS = "http://www.w3.org/2000/svg";

  // -- numbers ------------------------------------------------------------------------------------------------

  const raised = (power) => String(power).replace(/[-\d]/g, (digit) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(digit)]);
  const trimmed = (value) => String(Number(value.toPrecision(3)));
  const exact = (value) => value.toLocaleString("en", { maximumFractionDigits: 0 });
  function compact(value) {
    for (const [limit, suffix] of [
      [1e12, "T"],
      [1e9, "B"],
      [1e6, "M"],
      [1e3, "k"],
    ]) {
      if (Math.abs(value) >= limit * 0.9995) return trimmed(value / limit) + suffix;
    }
    return trimmed(value);
  }
  function power(value, digits = 2) {
    if (value <= 0) return "0";
    const [mantissa, exponent] = value.toExponential(digits).split("e");
    const text = `10${raised(Number(exponent))}`;
    return digits === 0 && mantissa === "1" ? text : `${mantissa}×${text}`;
  }

  // -- scales -------------------------------------------------------------------------------------------------

  function scale(kind, [low, high], [from, to]) {
    const f = kind === "log" ? Math.log : (value) => value,
      back = kind === "log" ? Math.exp : (value) => value;
    const start = f(low),
      rate = (to - from) / (f(high) - start || 1);
    return {
      kind,
      low,
      high,
      at: (value) => from + (f(value) - start) * rate,
      value: (place) => back(start + (place - from) / rate),
    };
  }

  // Round values inside [low, high], at most `most` of them.
  function round(low, high, most) {
    const rough = (high - low) / Math.max(1, most),
      unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * unit).find((candidate) => candidate >= rough * 0.999);
    const marks = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++)
      marks.push(Number((n * step).toPrecision(12)));
    return marks;
  }

  // Ticks that stand at least `room` pixels apart: 1, 2, 5 in every decade, or fewer; even steps within a threefold range.
  function ticks(axis, pixels, room) {
    const most = Math.max(2, Math.floor(pixels / room));
    if (axis.kind !== "log" || axis.high / axis.low < 3) return round(axis.low, axis.high, most);
    const first = Math.floor(Math.log10(axis.low)),
      last = Math.ceil(Math.log10(axis.high));
    for (const steps of [[1, 2, 5], [1, 3], [1]]) {
      const marks = [];
      for (let e = first; e <= last; e++)
        steps.forEach((s) => {
          if (s * 10 ** e >= axis.low * 0.999 && s * 10 ** e <= axis.high * 1.001) marks.push(s * 10 ** e);
        });
      const gap = Math.min(...marks.slice(1).map((mark, i) => Math.abs(axis.at(mark) - axis.at(marks[i]))));
      if (marks.length > 1 && gap >= room * 0.72) return marks;
    }
    const every = Math.ceil((last - first) / most),
      marks = [];
    for (let e = Math.ceil(Math.log10(axis.low)); e <= last; e += every) if (10 ** e <= axis.high) marks.push(10 ** e);
    return marks.length > 1 ? marks : round(axis.low, axis.high, most);
  }

  // -- marks --------------------------------------------------------------------------------------------------

  const ring = (corners, turn = 0, inner = 0) => {
    const points = [];
    const all = inner ? corners * 2 : corners;
    for (let i = 0; i < all; i++) {
      const radius = inner && i % 2 ? inner : 1,
        angle = turn - Math.PI / 2 + (2 * Math.PI * i) / all;
      points.push([radius * Math.cos(angle), radius * Math.sin(angle)]);
    }
    return points;
  };
  const shapes = {
    square: ring(4, Math.PI / 4).map(([x, y]) => [x * 1.1, y * 1.1]),
    diamond: ring(4).map(([x, y]) => [x * 1.15, y * 1.15]),
    "triangle-up": ring(3).map(([x, y]) => [x * 1.2, y * 1.2]),
    "triangle-down": ring(3, Math.PI).map(([x, y]) => [x * 1.2, y * 1.2]),
    "triangle-left": ring(3, -Math.PI / 2).map(([x, y]) => [x * 1.2, y * 1.2]),
    star: ring(5, 0, 0.45).map(([x, y]) => [x * 1.35, y * 1.35]),
    hexagon: ring(6).map(([x, y]) => [x * 1.05, y * 1.05]),
  };
  const fixed = (value) => Math.round(value * 100) / 100;
  function markPath(symbol, x, y, radius) {
    if (!shapes[symbol])
      return `M${fixed(x - radius)} ${fixed(y)}a${radius} ${radius} 0 1 0 ${2 * radius} 0a${radius} ${radius} 0 1 0 ${-2 * radius} 0`;
    return `M${shapes[symbol].map(([a, b]) => `${fixed(x + radius * a)} ${fixed(y + radius * b)}`).join("L")}Z`;
  }

  function make(tag, attributes = {}, ...inside) {
    const element = document.createElementNS(NS, tag);
    for (const [name, value] of Object.entries(attributes))
      if (value !== undefined && value !== "") element.setAttribute(name, value);
    element.append(...inside);
    return element;
  }
  function html(tag, attributes = {}, ...inside) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...inside);
    return element;
  }

  return { NS, compact, exact, power, scale, ticks, fixed, markPath, make, html };
})();
