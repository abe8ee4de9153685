// The page of a large cohort: the table is made from data, some rows at a time.
(() => {
  const table = document.getElementById("cohort");
  const rows = JSON.parse(document.getElementById("rows").textContent).map(
    ([study, state, modalities, roles, taken, refused, stage, reason, flags, seconds, time]) =>
      ({ study, state, modalities, roles, taken, refused, stage, reason, flags, seconds, time }));
  const columns = ["study", "state", "modalities", "roles", "taken", "refused", "stage", "reason",
    "flags", "seconds"];
  const find = document.getElementById("find");
  const size = document.getElementById("size");
  const filters = [...document.querySelectorAll("#filters button")];
  const headings = [...table.querySelectorAll("thead th")];
  const view = { state: "all", words: "", column: -1, down: false, page: 0, size: 100 };
  let chosen = rows;

  const cell = (tag, parts, name) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    for (const part of [parts].flat()) made.append(part);
    return made;
  };
  const tag = (text, name) => cell("span", text, name);
  const link = (row) => {
    const made = cell("a", row.study);
    made.href = `report/${encodeURIComponent(row.study)}.html`;
    const heading = cell("th", made);
    heading.scope = "row";
    return heading;
  };
  const flags = (row) => [
    ...row.flags.slice(0, 5).map((flag) => tag(flag, "flag")),
    ...(row.flags.length > 5 ? [tag(`and ${row.flags.length - 5} more`, "dim")] : []),
  ];
  const drawn = (row) => cell("tr", [
    link(row),
    cell("td", tag(row.state, `pill ${row.state}`)),
    cell("td", row.modalities),
    cell("td", row.roles.map((role) => tag(role, "role")), "nowrap"),
    cell("td", String(row.taken), "num"),
    cell("td", row.refused ? String(row.refused) : "", "num"),
    cell("td", row.stage),
    cell("td", row.reason, "long"),
    cell("td", flags(row), "long"),
    cell("td", row.time, "num nowrap"),
  ]);

  const text = (row) => row.text ??= [row.study, row.state, row.modalities, row.roles, row.stage,
    row.reason, row.flags].flat().join(" ").toLowerCase();
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  const choose = () => {
    const words = view.words.toLowerCase().split(/\s+/).filter(Boolean);
    chosen = rows.filter((row) => (view.state === "all" || row.state === view.state)
      && words.every((word) => text(row).includes(word)));
    const column = columns[view.column];
    if (column) chosen.sort((a, b) => (view.down ? -1 : 1) * compare(a[column], b[column]));
  };
  const show = () => {
    const n = view.size || Math.max(chosen.length, 1);
    const last = Math.max(0, Math.ceil(chosen.length / n) - 1);
    view.page = Math.min(Math.max(view.page, 0), last);
    const start = view.page * n;
    table.tBodies[0].replaceChildren(...chosen.slice(start, start + n).map(drawn));
    const end = Math.min(start + n, chosen.length);
    document.getElementById("none").hidden = chosen.length > 0;
    document.getElementById("shown").textContent = chosen.length
      ? `rows ${start + 1} to ${end} of ${chosen.length.toLocaleString("en")}` : "";
    document.querySelectorAll("[data-turn]").forEach((button) => {
      const back = button.dataset.turn === "first" || button.dataset.turn === "before";
      button.disabled = back ? view.page === 0 : view.page === last;
    });
    filters.forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.filter === view.state)));
    headings.forEach((heading, column) => {
      if (column !== view.column) heading.removeAttribute("aria-sort");
      else heading.setAttribute("aria-sort", view.down ? "descending" : "ascending");
    });
    keep();
  };
  // What is shown stands in the address, so that going back from a study finds it again.
  const keep = () => {
    const said = new URLSearchParams();
    if (view.state !== "all") said.set("state", view.state);
    if (view.words) said.set("find", view.words);
    if (view.column >= 0) said.set("sort", `${columns[view.column]}${view.down ? ".down" : ""}`);
    if (view.page) said.set("page", view.page + 1);
    if (view.size !== 100) said.set("size", view.size);
    const hash = said.toString();
    if (location.hash.slice(1) !== hash) history.replaceState(null, "", hash ? `#${hash}` : "#");
  };
  const recall = () => {
    const said = new URLSearchParams(location.hash.slice(1));
    const [column, down] = (said.get("sort") ?? "").split(".");
    view.state = filters.some((b) => b.dataset.filter === said.get("state")) ? said.get("state") : "all";
    view.words = find.value = said.get("find") ?? "";
    [view.column, view.down] = [columns.indexOf(column), down === "down"];
    view.size = [0, 500].includes(Number(said.get("size") ?? 100)) ? Number(said.get("size")) : 100;
    size.value = String(view.size);
    view.page = (Number(said.get("page")) || 1) - 1;
  };
  const change = (what) => { Object.assign(view, { page: 0 }, what); choose(); show(); };

  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () =>
      change({ column, down: view.column === column && !view.down }));
  });
  filters.forEach((b) => b.addEventListener("click", () => change({ state: b.dataset.filter })));
  find.addEventListener("input", () => change({ words: find.value }));
  size.addEventListener("change", () => change({ size: Number(size.value) }));
  const turns = { first: () => 0, before: () => view.page - 1, next: () => view.page + 1,
    last: () => Infinity };
  document.querySelectorAll("[data-turn]").forEach((button) =>
    button.addEventListener("click", () => { view.page = turns[button.dataset.turn](); show(); }));
  recall();
  choose();
  show();
})();
