"use strict";
// What every page does: shows pictures in parts, folds for the printer, turns light into dark.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const press = (buttons, pressed) =>
    buttons.forEach((b) => b.setAttribute("aria-pressed", String(b === pressed)));
  all("#filters, #folding, #theme, #pager, .tools").forEach((element) => { element.hidden = false; });

  // Paper shows what is folded, and pictures that have not come into view yet.
  addEventListener("beforeprint", () => {
    all("details.study, details.block").forEach((details) => { details.open = true; });
    all("img").forEach((image) => { image.loading = "eager"; });
  });

  // Pictures: one cell alone, enlarged; two cells in turn at the same place.
  const show = (view, cell) => {
    const image = view.querySelector("img");
    const [rows, columns] = [Number(view.dataset.rows), Number(view.dataset.columns)];
    if (cell === "") {
      view.style.aspectRatio = image.style.width = image.style.maxWidth = image.style.transform = "";
      return;
    }
    const [row, column] = cell.split(",").map(Number);
    view.style.aspectRatio = `${view.dataset.width / columns} / ${view.dataset.height / rows}`;
    image.style.width = image.style.maxWidth = `${100 * columns}%`;
    image.style.transform = `translate(${-100 * column / columns}%, ${-100 * row / rows}%)`;
  };
  all(".picture").forEach((picture) => {
    const view = picture.querySelector(".view");
    const buttons = all(".tools button", picture);
    let timer = 0;
    buttons.forEach((button) => button.addEventListener("click", () => {
      const blinking = timer !== 0;
      clearInterval(timer);
      timer = 0;
      if (!button.dataset.blink) {
        press(buttons, button);
        show(view, button.dataset.cell);
        return;
      }
      if (blinking) { press(buttons, buttons[0]); show(view, ""); return; }
      const cells = buttons.filter((b) => b.dataset.cell);
      const pair = button.dataset.blink.split(",").map((n) => cells[Number(n)]);
      let turn = 0;
      const next = () => {
        press(buttons, pair[turn]);
        button.setAttribute("aria-pressed", "true");
        show(view, pair[turn].dataset.cell);
        turn = 1 - turn;
      };
      next();
      timer = setInterval(next, 800);
    }));
  });

  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
})();
