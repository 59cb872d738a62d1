"use strict";
(() => {
  const $ = (selector, root = document) => root.querySelector(selector);
  const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

  // The table: a header's button sorts by its column, a second press turns the order. Unknown values stay last.
  const table = $("#board");
  const body = table && table.tBodies[0];
  const key = (row, column) => row.cells[column].dataset.v ?? row.cells[column].textContent.trim().toLowerCase();
  const compare = (a, b, numeric) => (numeric ? Number(a) - Number(b) : a < b ? -1 : a > b ? 1 : 0);
  for (const head of table ? $$("thead th", table) : []) {
    const button = $("button", head);
    button.disabled = false;
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const first = head.dataset.first || "ascending";
      const order = now === null || now === "none" ? first : now === "ascending" ? "descending" : "ascending";
      for (const other of $$("thead th", table)) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const numeric = head.dataset.type === "number";
      const column = head.cellIndex;
      const rows = [...body.rows].map((row) => [key(row, column), row]);
      rows.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === "");
        return order === "ascending" ? compare(a, b, numeric) : compare(b, a, numeric);
      });
      body.append(...rows.map(([, row]) => row));
    });
  }

  // The filter: words that all have to stand in a card or in its scenario, and a state.
  const box = $("#filter");
  const state = $("#state");
  const tally = $("#tally");
  if (box) {
    let index = null;
    const build = () =>
      $$("details.scenario").map((scenario) => ({
        scenario,
        text: [$("summary", scenario), $(".context", scenario)].map((e) => (e ? e.textContent : "")).join(" ").toLowerCase(),
        cards: $$(".card", scenario).map((card) => ({ card, text: card.textContent.toLowerCase() })),
      }));
    const apply = () => {
      index ??= build();
      const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0, all = 0;
      for (const { scenario, text, cards } of index) {
        let here = 0;
        for (const { card, text: own } of cards) {
          const fits = (!state.value || card.dataset.state === state.value) &&
            words.every((word) => own.includes(word) || text.includes(word));
          card.hidden = !fits;
          here += fits;
        }
        scenario.hidden = here === 0;
        shown += here;
        all += cards.length;
      }
      tally.textContent = words.length || state.value ? `${shown} of ${all} candidates` : "";
    };
    let timer = 0;
    box.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(apply, 120);
    });
    state.addEventListener("change", apply);
    $("#open").addEventListener("click", () => {
      const visible = $$("details.scenario").filter((scenario) => !scenario.hidden);
      const open = visible.some((scenario) => !scenario.open);
      for (const scenario of visible) scenario.open = open;
    });
    if (box.value || state.value) apply();
  }

  document.documentElement.dataset.ready = "";
})();
