"use strict";
// Tables: sorted by the button in a heading, filtered by words that a row must all hold.

const collator = new Intl.Collator("en", { numeric: true });

function cellValue(row, column) {
  const text = row.cells[column].dataset.value ?? row.cells[column].textContent;
  return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
}

function compareCells(a, b) {
  if (a === "" || b === "") return a === b ? 0 : a === "" ? 1 : -1; // what is not there stays last, either way
  if (typeof a === "number" && typeof b === "number") return a - b;
  return collator.compare(a, b);
}

function sortTable(table, heading) {
  const column = heading.cellIndex;
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, value: cellValue(row, column) }));
  rows.sort((a, b) => (down && a.value !== "" && b.value !== "" ? -1 : 1) * compareCells(a.value, b.value));
  body.append(...rows.map((entry) => entry.row));
}

function filterTable(table, words, output) {
  let shown = 0;
  for (const row of table.tBodies[0].rows) {
    row.dataset.text ??= row.textContent.toLowerCase();
    row.hidden = !words.every((word) => row.dataset.text.includes(word));
    shown += row.hidden ? 0 : 1;
  }
  output.textContent = words.length ? `${shown} of ${table.tBodies[0].rows.length} rows` : "";
}

for (const table of document.querySelectorAll("table.sortable")) {
  for (const heading of table.tHead.rows[0].cells) {
    heading.querySelector("button")?.addEventListener("click", () => sortTable(table, heading));
  }
}

for (const input of document.querySelectorAll("input[data-filters]")) {
  const table = document.getElementById(input.dataset.filters);
  const output = input.closest(".filter").querySelector("output");
  input.addEventListener("input", () => {
    filterTable(table, input.value.toLowerCase().split(/\s+/).filter(Boolean), output);
  });
}
