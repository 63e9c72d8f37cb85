// What the theme leaves out for screen readers and keyboards.
document.querySelector("[data-md-component=search]")?.setAttribute("aria-label", "Search")
new MutationObserver(() => {
  for (const wrap of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) wrap.tabIndex = 0
}).observe(document.body, { childList: true, subtree: true })
for (const wrap of document.querySelectorAll(".md-typeset__scrollwrap")) wrap.tabIndex = 0
