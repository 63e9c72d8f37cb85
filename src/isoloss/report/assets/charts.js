"use strict";
// Charts as SVG: axes, bands, lines and marks, with a pointer and a keyboard that read them out. All colours come from
// the style sheet, so that light and dark need no second drawing.
//
// A layer: {x, y, low, high, css, symbol, arm, size, name, tip, line, band, marks, bars, hollow, dashed, width, faint}.
// `null` in x or y breaks a line. `tip(i)` gives the rows [name, value] that point i says; without it a layer is mute.
const Chart = (() => {
  const { NS, scale, ticks, fixed, markPath, make, html } = scales;
  const NEAR = 60; // pixels within which a point is pointed at
  const MOVED = 5; // pixels that make a click a drag
  const LETTER = 6.4; // pixels of one, for the room that names take
  const SPEED = 2; // how much closer one key goes

  class Chart {
    // `told`: where points are said aloud; `picked(layer, index)`: a point was chosen; `left()`: Escape.
    constructor(element, { told, picked, left }) {
      Object.assign(this, { element, told, picked, left, spec: null, view: null, marked: null, current: null });
      this.area = html("div", {
        class: "area",
        tabindex: "0",
        role: "application",
        "aria-label": `${element.getAttribute("aria-label")} Arrow keys go from point to point, Enter marks arm and size everywhere, plus and minus zoom, 0 shows all.`,
      });
      this.tip = html("div", { class: "tip", hidden: "", "aria-hidden": "true" });
      this.whole = html("button", { type: "button", hidden: "" }, "Show all");
      this.kept = html("button", { type: "button" }, "Save SVG");
      element.replaceChildren(this.area, html("div", { class: "tools" }, this.whole, this.kept), this.tip);
      this.whole.addEventListener("click", () => this.zoom(null));
      this.kept.addEventListener("click", () => this.save());
      this.listen();
      this.width = 0;
      new ResizeObserver(() => {
        if (this.spec && this.element.clientWidth !== this.width) this.render();
      }).observe(element);
    }

    get layers() {
      return this.spec?.layers ?? [];
    }

    show(spec) {
      if (this.spec && this.spec.key !== spec.key) this.view = null;
      this.spec = spec;
      this.current = null;
      this.hide();
      if (this.element.clientWidth) this.render();
    }

    // The range of an axis over all layers, padded; `include` are values that it must show.
    domain(axis, names) {
      let low = Infinity,
        high = -Infinity;
      const see = (value) => {
        if (Number.isFinite(value) && (axis.kind !== "log" || value > 0)) {
          low = Math.min(low, value);
          high = Math.max(high, value);
        }
      };
      // A band that opens beyond the data must not hide the rest: only its x counts.
      for (const layer of this.layers)
        names.forEach((name) => {
          if (!layer.overflows || name === "x") layer[name]?.forEach(see);
        });
      axis.include?.forEach(see);
      if (axis.fixed) [low, high] = axis.fixed;
      if (low > high) [low, high] = [1, 10];
      if (low === high) [low, high] = axis.kind === "log" ? [low / 1.5, high * 1.5] : [low - 1, high + 1];
      if (axis.fixed) return [low, high];
      if (axis.kind === "log") {
        const pad = (high / low) ** 0.05;
        return [low / pad, high * pad];
      }
      const pad = (high - low) * 0.05;
      return [axis.zero && low >= 0 ? 0 : low - pad, high + pad];
    }

    render() {
      const began = performance.now();
      const { spec } = this,
        width = (this.width = this.element.clientWidth),
        height = this.element.clientHeight;
      const room = {
        top: 34,
        right: Math.max(18, ...(spec.labels ?? []).map((label) => label.text.length * LETTER + 14)),
        bottom: 46,
        left: 52,
      };
      const domain = this.view ?? { x: this.domain(spec.x, ["x"]), y: this.domain(spec.y, ["y", "low", "high"]) };
      this.shown = domain;
      const x = scale(spec.x.kind, domain.x, [room.left, width - room.right]),
        y = scale(spec.y.kind, domain.y, [height - room.bottom, room.top]);
      Object.assign(this, { x, y, room, height });
      const svg = make("svg", {
        width,
        height,
        viewBox: `0 0 ${width} ${height}`,
        "aria-hidden": "true",
        focusable: "false",
      });
      const clip = `${this.element.id}-clip`;
      svg.append(
        make(
          "defs",
          {},
          make(
            "clipPath",
            { id: clip },
            make("rect", {
              x: room.left,
              y: room.top,
              width: Math.max(1, width - room.left - room.right),
              height: Math.max(1, height - room.top - room.bottom),
            }),
          ),
        ),
      );
      svg.append(this.axes(width, height), this.regions(height));
      const body = make("g", { "clip-path": `url(#${clip})` });
      const order = { band: 0, line: 1, bars: 2, marks: 3 };
      this.groups = [];
      for (const part of Object.keys(order))
        for (const layer of this.layers) if (layer[part]) body.append(this.part(part, layer));
      this.body = body;
      this.pointer = make("path", { class: "pointer", hidden: "" });
      this.box = make("rect", { class: "brush", hidden: "" });
      svg.append(body, this.labels(width), this.pointer, this.box);
      this.area.replaceChildren(svg);
      this.whole.hidden = !this.view;
      this.targets = this.reach();
      this.mark(this.marked);
      this.took = performance.now() - began;
    }

    axes(width, height) {
      const { spec, x, y, room } = this,
        group = make("g", { class: "axes" });
      const floor = height - room.bottom;
      for (const value of ticks(x, width - room.left - room.right, spec.x.room ?? 58)) {
        const at = fixed(x.at(value));
        group.append(
          make("path", { class: "grid", d: `M${at} ${room.top}V${floor}` }),
          make("text", { class: "tick", x: at, y: floor + 17, "text-anchor": "middle" }, spec.x.tick(value)),
        );
      }
      for (const value of ticks(y, floor - room.top, 34)) {
        const at = fixed(y.at(value));
        group.append(
          make("path", { class: "grid", d: `M${room.left} ${at}H${width - room.right}` }),
          make("text", { class: "tick", x: room.left - 8, y: at + 4, "text-anchor": "end" }, spec.y.tick(value)),
        );
      }
      for (const value of spec.y.rules ?? [])
        if (value >= y.low && value <= y.high)
          group.append(make("path", { class: "rule", d: `M${room.left} ${fixed(y.at(value))}H${width - room.right}` }));
      group.append(make("path", { class: "base", d: `M${room.left} ${floor}H${width - room.right}` }));
      group.append(
        make("text", { class: "title", x: 2, y: 14 }, spec.y.title),
        make(
          "text",
          { class: "title xtitle", x: width - room.right, y: height - 8, "text-anchor": "end" },
          spec.x.title,
        ),
      );
      return group;
    }

    // What lies beyond the measured range of x: {from} to the right end, {to} from the left end.
    regions(height) {
      const { x, room } = this,
        group = make("g", { class: "regions" });
      for (const { from, to, text } of this.spec.regions ?? []) {
        const left = Math.max(room.left, x.at(from ?? x.low)),
          right = Math.min(this.width - room.right, x.at(to ?? x.high));
        if (right - left < 2) continue;
        group.append(
          make("rect", {
            class: "beyond",
            x: fixed(left),
            y: room.top,
            width: fixed(right - left),
            height: height - room.top - room.bottom,
          }),
        );
        if (text && right - left > 100)
          group.append(
            make("text", { class: "note", x: fixed(right - 6), y: room.top + 14, "text-anchor": "end" }, text),
          );
      }
      return group;
    }

    part(part, layer) {
      const { x, y } = this,
        group = make("g", {
          class: `layer ${part} ${layer.css ?? ""} ${layer.dashed ? "predicted" : ""} ${layer.faint ? "faint" : ""}`,
        });
      this.groups.push({ group, layer });
      const place = (i, row = layer.y) => {
        const a = layer.x[i],
          b = row[i];
        return a == null || b == null || (x.kind === "log" && a <= 0) || (y.kind === "log" && b <= 0)
          ? null
          : [fixed(x.at(a)), fixed(y.at(b))];
      };
      if (part === "line") {
        let path = "",
          open = false;
        layer.x.forEach((_, i) => {
          const at = place(i);
          if (at) path += `${open ? "L" : "M"}${at[0]} ${at[1]}`;
          open = Boolean(at);
        });
        group.append(make("path", { d: path, style: layer.width ? `stroke-width:${layer.width}px` : "" }));
      } else if (part === "band") {
        const upper = [],
          lower = [];
        const edge = layer.across ?? layer.x;
        layer.x.forEach((_, i) => {
          const high = place(i, layer.high),
            low = layer.across
              ? edge[i] == null || layer.low[i] == null
                ? null
                : [fixed(x.at(edge[i])), fixed(y.at(layer.low[i]))]
              : place(i, layer.low);
          if (high && low) {
            upper.push(high.join(" "));
            lower.unshift(low.join(" "));
          }
        });
        if (upper.length > 1) group.append(make("path", { d: `M${upper.concat(lower).join("L")}Z` }));
      } else if (part === "bars") {
        let path = "";
        layer.x.forEach((_, i) => {
          const high = place(i, layer.high),
            low = place(i, layer.low);
          if (high && low)
            path += `M${low[0]} ${low[1]}V${high[1]}${layer.caps ? `M${low[0] - 4} ${low[1]}h8M${high[0] - 4} ${high[1]}h8` : ""}`;
        });
        group.append(make("path", { d: path }));
      } else {
        let path = "";
        layer.x.forEach((_, i) => {
          const at = place(i);
          if (at) path += markPath(layer.symbol, at[0], at[1], layer.radius ?? 4.2);
        });
        group.append(make("path", { d: path, class: layer.hollow ? "hollow" : "" }));
      }
      return group;
    }

    // Names at the ends of lines, pushed apart where they would lie on each other.
    labels(width) {
      const group = make("g", { class: "labels" }),
        placed = [];
      const wanted = (this.spec.labels ?? []).map((label) => ({
        ...label,
        left: this.x.at(label.x) + (label.shift ?? 7),
        top: this.y.at(label.y) + (label.rise ?? 0),
      }));
      const { room } = this,
        floor = this.height - room.bottom;
      for (const label of wanted
        .filter(
          (one) => one.left >= room.left && one.left <= width + 2 && one.top >= room.top - 10 && one.top <= floor - 3,
        )
        .sort((a, b) => a.top - b.top)) {
        const long = label.text.length * LETTER;
        const left = Math.min(label.left, width - long - 2);
        const hit = placed
          .filter((other) => other.left < left + long && left < other.left + other.long)
          .reduce((low, other) => Math.max(low, other.top + 13), -Infinity);
        const top = Math.max(label.top, hit);
        if (top > floor + 2) continue;
        placed.push({ left, long, top });
        const text = make("text", { class: `label ${label.css ?? ""}`, x: fixed(left), y: fixed(top + 4) }, label.text);
        this.groups.push({ group: text, layer: label });
        group.append(text);
      }
      return group;
    }

    // -- pointing -----------------------------------------------------------------------------------------------

    // Every point that can be read out, in the order that the arrow keys go through them.
    reach() {
      const found = [];
      for (const layer of this.layers) {
        if (!layer.tip) continue;
        const points = [];
        layer.x.forEach((value, i) => {
          if (value == null || layer.y[i] == null) return;
          const left = this.x.at(value),
            top = this.y.at(layer.y[i]);
          if (
            left >= this.room.left - 1 &&
            left <= this.width - this.room.right + 8 &&
            top >= this.room.top - 9 &&
            top <= this.height - this.room.bottom + 1
          )
            points.push({ layer, index: i, left, top });
        });
        points.sort((a, b) => a.left - b.left);
        if (points.length) found.push(points);
      }
      return found;
    }

    nearest(left, top) {
      let best = null,
        least = NEAR ** 2;
      for (const points of this.targets) {
        for (const point of points) {
          const away = (point.left - left) ** 2 + (point.top - top) ** 2;
          if (away < least) {
            least = away;
            best = point;
          }
        }
      }
      return best;
    }

    say(point, aloud) {
      if (!point) {
        this.hide();
        return;
      }
      this.current = point;
      const { layer, index } = point,
        rows = layer.tip(index);
      this.pointer.setAttribute("d", markPath(layer.symbol, point.left, point.top, 7));
      this.pointer.setAttribute("class", `pointer ${layer.css ?? ""}`);
      this.pointer.removeAttribute("hidden");
      const name = layer.name ? [html("strong", { class: layer.css ?? "" }, layer.name)] : [];
      this.tip.replaceChildren(
        ...name,
        html("dl", {}, ...rows.map(([key, value]) => html("div", {}, html("dt", {}, key), html("dd", {}, value)))),
      );
      this.tip.hidden = false;
      const { offsetWidth: wide, offsetHeight: tall } = this.tip;
      this.tip.style.left = `${Math.max(0, Math.min(this.width - wide, point.left > this.width / 2 ? point.left - wide - 14 : point.left + 14))}px`;
      this.tip.style.top = `${Math.max(0, Math.min(this.height - tall, point.top - tall / 2))}px`;
      if (aloud)
        this.told(`${layer.name ? `${layer.name}. ` : ""}${rows.map(([key, value]) => `${key} ${value}`).join(", ")}`);
    }

    hide() {
      this.tip.hidden = true;
      this.pointer?.setAttribute("hidden", "");
    }

    listen() {
      const { area } = this;
      let start = null,
        waiting = null;
      const spot = (event) => {
        const box = area.getBoundingClientRect();
        return [event.clientX - box.left, event.clientY - box.top];
      };
      area.addEventListener("pointermove", (event) => {
        const at = spot(event);
        cancelAnimationFrame(waiting);
        waiting = requestAnimationFrame(() => {
          if (start) this.brush(start, at);
          else this.say(this.nearest(...at));
        });
      });
      area.addEventListener("pointerleave", () => {
        cancelAnimationFrame(waiting);
        if (!start && document.activeElement !== area) this.hide();
      });
      area.addEventListener("pointerdown", (event) => {
        if (event.button || event.pointerType === "touch") return;
        start = spot(event);
        area.setPointerCapture(event.pointerId);
      });
      area.addEventListener("pointercancel", () => {
        start = null;
      });
      area.addEventListener("pointerup", (event) => {
        const from = start,
          to = spot(event);
        start = null;
        this.box?.setAttribute("hidden", "");
        if (from && Math.hypot(to[0] - from[0], to[1] - from[1]) > MOVED) {
          cancelAnimationFrame(waiting);
          this.within(from, to);
          return;
        }
        const point = this.nearest(...to);
        this.say(point);
        if (point) this.picked(point.layer);
      });
      area.addEventListener("dblclick", () => this.zoom(null));
      area.addEventListener("keydown", (event) => {
        if (!event.ctrlKey && !event.metaKey && !event.altKey && this.key(event.key)) event.preventDefault();
      });
      area.addEventListener("blur", () => this.hide());
    }

    key(name) {
      if (!this.targets?.length && name !== "0") return false;
      const row = this.targets.findIndex((points) => points.some((point) => point.layer === this.current?.layer));
      const points = this.targets[Math.max(0, row)],
        place = points?.findIndex((point) => point.index === this.current?.index) ?? -1;
      const move = { ArrowRight: 1, ArrowLeft: -1 }[name],
        turn = { ArrowDown: 1, ArrowUp: -1 }[name];
      if (move) this.say(points[row < 0 ? 0 : Math.max(0, Math.min(points.length - 1, place + move))], true);
      else if (turn) {
        const next =
            this.targets[(Math.max(0, row) + (row < 0 ? 0 : turn) + this.targets.length) % this.targets.length],
          left = this.current?.left ?? 0;
        this.say(
          next.reduce((best, point) => (Math.abs(point.left - left) < Math.abs(best.left - left) ? point : best)),
          true,
        );
      } else if (name === "Home" || name === "End") this.say(points.at(name === "End" ? -1 : 0), true);
      else if ((name === "Enter" || name === " ") && this.current) this.picked(this.current.layer);
      else if (name === "Escape") {
        this.hide();
        this.left();
      } else if (name === "+" || name === "=" || name === "-") this.closer(name === "-" ? SPEED : 1 / SPEED);
      else if (name === "0") this.zoom(null);
      else return false;
      return true;
    }

    brush(from, to) {
      const corner = [0, 1].map((i) => Math.min(from[i], to[i])),
        size = [0, 1].map((i) => Math.abs(from[i] - to[i]));
      for (const [name, value] of [
        ["x", corner[0]],
        ["y", corner[1]],
        ["width", size[0]],
        ["height", size[1]],
      ])
        this.box.setAttribute(name, fixed(value));
      this.box.removeAttribute("hidden");
      this.hide();
    }

    within(from, to) {
      const span = (axis, a, b) => [axis.value(a), axis.value(b)].sort((one, other) => one - other);
      this.zoom({ x: span(this.x, from[0], to[0]), y: span(this.y, from[1], to[1]) });
    }

    // Zoom by a factor around the current point, or the middle.
    closer(factor) {
      const middle = this.current ?? {
        left: (this.room.left + this.width - this.room.right) / 2,
        top: (this.room.top + this.height - this.room.bottom) / 2,
      };
      const half = [
        ((this.width - this.room.left - this.room.right) * factor) / 2,
        ((this.height - this.room.top - this.room.bottom) * factor) / 2,
      ];
      this.within([middle.left - half[0], middle.top + half[1]], [middle.left + half[0], middle.top - half[1]]);
    }

    zoom(view) {
      const kept = this.current;
      this.view = view;
      this.render();
      this.hide();
      const again =
        kept && this.targets.flat().find((point) => point.layer === kept.layer && point.index === kept.index);
      this.current = again ?? null;
      if (again && document.activeElement === this.area) this.say(again);
    }

    // -- what others chose ----------------------------------------------------------------------------------------

    // Fade what is not of the marked arm and size.
    mark(marked) {
      this.marked = marked;
      for (const { group, layer } of this.groups ?? []) {
        const apart =
          marked &&
          ((marked.arm != null && layer.arm != null && layer.arm !== marked.arm) ||
            (marked.size != null && layer.size != null && layer.size !== marked.size));
        group.classList.toggle("dim", Boolean(apart));
      }
    }

    // The picture as a file, with the style that it has now.
    save() {
      const svg = this.area.querySelector("svg"),
        copy = svg.cloneNode(true);
      const names = [
        "fill",
        "fill-opacity",
        "stroke",
        "stroke-width",
        "stroke-dasharray",
        "stroke-linejoin",
        "opacity",
        "font-family",
        "font-size",
        "font-weight",
      ];
      const sources = svg.querySelectorAll("*");
      copy.querySelectorAll("*").forEach((element, i) => {
        const style = getComputedStyle(sources[i]);
        element.setAttribute("style", names.map((name) => `${name}:${style.getPropertyValue(name)}`).join(";"));
      });
      copy.setAttribute("xmlns", NS);
      copy.setAttribute("style", `background:${getComputedStyle(document.body).backgroundColor}`);
      const link = html("a", {
        href: URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" })),
        download: `${this.element.id}.svg`,
      });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    }
  }

  return Chart;
})();
