"use strict";
// Puts interactive charts over the static figures and links them: one choice of arms, size and axes for all, and a mark
// that every chart, table and tree shows. Without this script the static figures stay: the page is whole without it.
(() => {
  const began = performance.now();
  const { compact } = scales;
  const $ = (id) => document.getElementById(id);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const data = JSON.parse($("data").textContent);
  const { arms, sizes } = data;
  const shown = specs(data);
  const live = all(".live");
  const mark = { arm: null, size: null };
  const drawn = new Map();

  // -- what is chosen -------------------------------------------------------------------------------------------

  const checked = (name) => document.querySelector(`input[name=${name}]:checked`)?.value;

  function chosen() {
    const form = $("controls") ? new FormData($("controls")) : new FormData();
    const size = form.get("size") ?? "all";
    return {
      arms: new Set(form.getAll("arm").map(Number)),
      size: size === "all" ? null : sizes[Number(size)],
      x: form.get("x") ?? "D",
      xscale: form.get("xscale") ?? "log",
      yscale: form.get("yscale") ?? "log",
      seeds: form.get("seeds") ?? "mean",
      part: checked("part") ?? $("curves")?.dataset.part ?? "curve",
      measure: Number(checked("measure") ?? 0),
    };
  }

  // -- drawing ----------------------------------------------------------------------------------------------------

  function draw() {
    const start = performance.now(),
      now = chosen();
    for (const element of live) {
      if (element.closest("[hidden]:not(.live)")) continue;
      drawn.get(element).show(shown[element.dataset.chart](now, Number(element.dataset.law ?? 0)));
    }
    performance.clearMeasures("isoloss:update");
    performance.measure("isoloss:update", { start });
  }

  function showMark() {
    const some = mark.arm != null || mark.size != null,
      { arm, size } = mark;
    drawn.forEach((chart) => chart.mark(some ? mark : null));
    for (const element of all("[data-mark]")) {
      const { arms: listed, size: own } = element.dataset;
      const apart =
        some &&
        ((arm != null && listed !== undefined && !listed.split(" ").includes(String(arm))) ||
          (size != null && own !== undefined && Number(own) !== size));
      element.classList.toggle("dim", Boolean(apart));
      element.classList.toggle("marked", some && !apart);
    }
    for (const button of all(".pick")) {
      const same =
        some &&
        button.dataset.arm === String(arm) &&
        (button.dataset.size === undefined ? size == null : Number(button.dataset.size) === size);
      button.setAttribute("aria-pressed", String(Boolean(same)));
    }
    const clear = $("clear");
    clear.hidden = !some;
    if (some) {
      const words = [arm == null ? "" : arms[arm].name, size == null ? "" : `N ${compact(size)}`]
        .filter(Boolean)
        .join(", ");
      $("clear-glyph").textContent = arm == null ? "" : arms[arm].glyph;
      $("clear-glyph").className = `glyph ${arm == null ? "" : arms[arm].css}`;
      $("clear-words").textContent = words;
      told(`Marked: ${words}`);
    }
  }

  // Mark an arm and a size everywhere; choosing the same again takes the mark away.
  function pick(arm, size) {
    const same = mark.arm === (arm ?? null) && mark.size === (size ?? null);
    Object.assign(mark, same ? { arm: null, size: null } : { arm: arm ?? null, size: size ?? null });
    const select = $("size"),
      law = data.laws.findIndex((one) => one.arm === mark.arm);
    let redraw = false;
    if (!same && select && size != null && sizes.includes(size) && chosen().size !== null) {
      select.value = String(sizes.indexOf(size));
      redraw = true;
    }
    if (!same && arm != null) {
      const box = document.querySelector(`input[name=arm][value="${arm}"]`),
        tab = document.querySelector(`input[name=law][value="${law}"]`);
      if (box && !box.checked) {
        box.checked = true;
        redraw = true;
      }
      if (
        tab &&
        !tab.checked &&
        data.laws[Number(document.querySelector("input[name=law]:checked")?.value)]?.arm !== arm
      ) {
        tab.checked = true;
        showLaw();
        redraw = true;
      }
    }
    if (redraw) draw();
    showMark();
  }

  const told = (words) => {
    $("told").textContent = words;
  };

  function showLaw() {
    const tab = document.querySelector("input[name=law]:checked");
    if (tab)
      all(".law").forEach((article) => {
        article.hidden = article.id !== `law-panel-${tab.value}`;
      });
  }

  // Rows of single sizes, where there are many.
  function fold(open) {
    $("fold").setAttribute("aria-expanded", String(open));
    document.querySelector(".answers").classList.toggle("folded", !open);
  }

  // -- beginning --------------------------------------------------------------------------------------------------

  const ready = (on) => {
    document.documentElement.classList.toggle("ready", on);
    live.forEach((element) => {
      element.hidden = !on;
    });
    all(".scripted").forEach((element) => {
      element.hidden = !on;
    });
  };
  ready(true); // Charts measure the elements that they are drawn into.
  try {
    for (const element of live)
      drawn.set(
        element,
        (element.chart = new Chart(element, {
          told,
          picked: (layer) => layer.arm !== undefined && pick(layer.arm, layer.size),
          left: () => pick(mark.arm, mark.size),
        })),
      );
    showLaw();
    if ($("fold")) fold(false);
    draw();
  } catch (error) {
    ready(false);
    all(".law").forEach((article) => {
      article.hidden = false;
    });
    throw error;
  }

  document.addEventListener("change", (event) => {
    const { name } = event.target;
    if (!["arm", "size", "x", "xscale", "yscale", "seeds", "part", "measure", "law"].includes(name)) return;
    if (name === "law") showLaw();
    if (name === "size") Object.assign(mark, { size: chosen().size });
    draw();
    showMark();
  });
  all("form.controls").forEach((form) => form.addEventListener("submit", (event) => event.preventDefault()));
  document.addEventListener("click", (event) => {
    const button = event.target.closest(".pick, #clear, #fold");
    if (!button) return;
    if (button.id === "fold") {
      fold(button.getAttribute("aria-expanded") === "false");
    } else if (button.id === "clear") {
      pick(mark.arm, mark.size);
    } else pick(Number(button.dataset.arm), button.dataset.size === undefined ? null : Number(button.dataset.size));
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && (mark.arm != null || mark.size != null)) pick(mark.arm, mark.size);
  });

  // The section that is being read, in the navigation.
  const links = new Map(all("nav a").map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const reading = new IntersectionObserver(
    (entries) => {
      for (const { isIntersecting, target } of entries) {
        if (isIntersecting) seen.add(target.id);
        else seen.delete(target.id);
      }
      const first = [...links.keys()].find((id) => seen.has(id));
      for (const [id, link] of links) {
        if (id === first) link.setAttribute("aria-current", "location");
        else link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-12% 0px -70% 0px" },
  );
  links.forEach((_, id) => {
    if ($(id)) reading.observe($(id));
  });
  document.documentElement.dataset.plots = "drawn";
  performance.measure("isoloss:script", { start: began });
  performance.measure("isoloss:interactive", { start: 0 });
})();
