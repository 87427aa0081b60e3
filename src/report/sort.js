for (const header of document.querySelectorAll("th")) {
  header.querySelector("button").addEventListener("click", () => {
    const descending = header.getAttribute("aria-sort") !== "descending";
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const body = header.closest("table").tBodies[0];
    const key = (row) => {
      const cell = row.cells[header.cellIndex];
      const text = cell.dataset.value ?? cell.textContent;
      return text === "" ? null : { inf: Infinity, "-inf": -Infinity }[text] ?? (isNaN(text) ? text : Number(text));
    };
    const compare = (a, b) => {
      // What has no value comes last, whichever way.
      if (a === null || b === null) return (a === null) - (b === null);
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return descending ? -order : order;
    };
    const rows = [...body.rows].map((row) => [key(row), row]);
    rows.sort(([a], [b]) => compare(a, b));
    body.append(...rows.map(([, row]) => row));
  });
}
