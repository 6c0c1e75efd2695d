
(() => {
"use strict";
const tip = document.getElementById("tip");
const show = (mark, x, y) => {
  tip.textContent = mark.dataset.tip;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
  tip.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18) + "px";
};
const hide = () => { tip.hidden = true; };
const pick = (figure, mark) => {
  figure.querySelector(".chosen")?.classList.remove("chosen");
  if (!mark) return hide();
  mark.classList.add("chosen");
  mark.scrollIntoView({block: "nearest", inline: "nearest"});
  const box = mark.getBoundingClientRect();
  show(mark, box.right, box.bottom);
};
// The nearest mark in a direction, by what is seen.
const next = (marks, from, dx, dy) => {
  const middle = m => { const b = m.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; };
  const [x, y] = middle(from);
  let best = null, least = Infinity;
  for (const mark of marks) {
    const [u, v] = middle(mark);
    const along = (u - x) * dx + (v - y) * dy, across = Math.abs((u - x) * dy) + Math.abs((v - y) * dx);
    if (along > 0.5 && along + 3 * across < least) { least = along + 3 * across; best = mark; }
  }
  return best;
};
const moves = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]};
document.querySelectorAll("figure").forEach(figure => {
  const area = figure.querySelector(".scroll");
  area.addEventListener("mousemove", event => {
    const mark = event.target.closest("[data-tip]");
    mark ? show(mark, event.clientX, event.clientY) : hide();
  });
  area.addEventListener("mouseleave", hide);
  area.addEventListener("blur", () => pick(figure, null));
  area.addEventListener("keydown", event => {
    if (event.key === "Escape") return pick(figure, null);
    if (!(event.key in moves)) return;
    const marks = [...area.querySelectorAll("[data-tip]")];
    if (!marks.length) return;
    const from = area.querySelector(".chosen");
    const to = from ? next(marks, from, ...moves[event.key]) : marks[0];
    if (to) { event.preventDefault(); pick(figure, to); }
  });
});
const labelled = (text, input) => {
  const label = document.createElement("label");
  label.append(text + " ", input);
  return label;
};
document.querySelectorAll("script.extra").forEach(script => {
  const extra = JSON.parse(script.textContent), figure = script.closest("figure");
  const controls = figure.querySelector(".controls"), rows = figure.querySelectorAll("[data-r]");
  controls.hidden = false;
  const order = document.createElement("select");
  for (const name of ["by category", "by clustering of routes"]) order.add(new Option(name));
  order.addEventListener("change", () => rows.forEach(mark => {
    const row = +mark.dataset.r, moved = (extra.rank[row] - row) * extra.height;
    mark.setAttribute("transform", order.selectedIndex ? `translate(0 ${moved})` : "");
  }));
  controls.append(labelled("Order of tasks:", order));
  if (extra.steps.length < 2) return;
  const cells = figure.querySelectorAll(".cell"), slider = document.createElement("input");
  const said = document.createElement("output");
  Object.assign(slider, {type: "range", min: 0, max: extra.steps.length - 1, value: extra.steps.length - 1});
  const draw = () => {
    const at = +slider.value, bytes = atob(extra.weights[at]);
    said.textContent = " step " + extra.steps[at];
    slider.setAttribute("aria-valuetext", "step " + extra.steps[at]);
    cells.forEach((cell, i) => {
      const weight = bytes.charCodeAt(i) / 255;
      cell.setAttribute("fill-opacity", Math.max(weight, 0.03).toFixed(2));
      cell.dataset.tip = cell.dataset.tip.replace(/: [\d.]+$/, ": " + weight.toFixed(2));
    });
  };
  slider.addEventListener("input", draw);
  said.textContent = " step " + extra.steps.at(-1);
  const label = labelled("Snapshot:", slider);
  label.append(said);
  controls.append(label);
});
document.querySelectorAll("table.sortable").forEach(table => {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => {
      const cell = row.cells[column];
      if (!("v" in cell.dataset)) return cell.textContent;
      return cell.dataset.v === "" ? null : +cell.dataset.v;
    };
    const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
    const sorted = [...body.rows].map(row => [key(row), row]).sort(([a], [b]) =>
      a === null ? 1 : b === null ? -1 : down ? compare(b, a) : compare(a, b));
    body.append(...sorted.map(([, row]) => row));
  }));
});
})();
