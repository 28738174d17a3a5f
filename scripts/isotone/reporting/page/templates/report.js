"use strict";
// Sort a table by the heading that was clicked; numbers as numbers, the rest as text.
for (const heading of document.querySelectorAll("table.sortable th")) {
  heading.tabIndex = 0;
  const sort = () => {
    const table = heading.closest("table");
    const body = table.tBodies[0];
    const column = heading.cellIndex;
    const upwards = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", upwards ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent;
    const value = (text) => (text === "" || Number.isNaN(Number(text)) ? null : Number(text));
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      const [m, n] = [value(x), value(y)];
      if (m !== null && n !== null) return upwards ? m - n : n - m;
      if (m !== null || n !== null) return m !== null ? -1 : 1; // cells without a number stay below
      return upwards ? x.localeCompare(y) : y.localeCompare(x);
    });
    body.append(...rows);
  };
  heading.addEventListener("click", sort);
  heading.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      sort();
    }
  });
}
// A link to a group of rows opens it; printing opens everything.
const open = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
};
addEventListener("hashchange", open);
open();
addEventListener("beforeprint", () => document.querySelectorAll("details.example").forEach((part) => (part.open = true)));
