"use strict";
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

/* Tables that can be sorted by their columns. */

function makeSortable(table) {
  const rows = [...table.tBodies[0].rows];
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const down = header.ariaSort === "ascending" || (header.ariaSort === null && column > 0);
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = ({ cells }) => cells[column].dataset.value ?? cells[column].textContent;
      const number = (row) => parseFloat(value(row).replace("−", "-"));
      const compare = column && rows.some((row) => number(row))
        ? (a, b) => (number(a) || 0) - (number(b) || 0)
        : (a, b) => collator.compare(value(a), value(b));
      rows.sort((a, b) => (down ? -1 : 1) * compare(a, b));
      table.tBodies[0].append(...rows);
    });
  });
}

document.querySelectorAll(".sortable").forEach(makeSortable);
