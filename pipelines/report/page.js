// The page of a small cohort: all studies in one table and below it.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const press = (buttons, pressed) =>
    buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === pressed)));
  // Sorting: a button in each heading; numbers and durations by their value, text by its letters.
  const table = document.getElementById("cohort");
  const value = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    return text !== "" && !Number.isNaN(Number(text)) ? Number(text) : text;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  if (table) all("thead th", table).forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      all("thead th", table).forEach((h) => h.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = all("tbody tr", table);
      rows.sort((a, b) => (down ? -1 : 1) * compare(value(a, column), value(b, column)));
      table.tBodies[0].append(...rows);
    });
  });

  // Filtering: by state and by what a row says; the studies below follow their rows.
  let state = "all";
  const find = document.getElementById("find");
  const filter = () => {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    all("#cohort tbody tr").forEach((row) => {
      const text = row.textContent.toLowerCase();
      const fits = (state === "all" || row.dataset.state === state)
        && words.every((word) => text.includes(word));
      row.hidden = !fits;
      document.getElementById(row.dataset.study).hidden = !fits;
      shown += fits;
    });
    const none = document.getElementById("none");
    if (none) none.hidden = shown > 0;
  };
  const filters = all("#filters button");
  filters.forEach((button) => button.addEventListener("click", () => {
    state = button.dataset.filter;
    press(filters, button);
    filter();
  }));
  if (find) find.addEventListener("input", filter);

  // Folding: links open what they lead to.
  const studies = all("details.study");
  const fold = (open) => studies.forEach((study) => { study.open = open; });
  document.getElementById("unfold")?.addEventListener("click", () => fold(true));
  document.getElementById("fold")?.addEventListener("click", () => fold(false));
  const reveal = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const study = target?.closest("details.study");
    if (study && !study.open) { study.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", reveal);
  reveal();
})();
