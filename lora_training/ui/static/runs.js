// The list of runs: new ones, and the choice of those to compare.
"use strict";

const rows = document.getElementById("rows");

function choose() {
  const count = rows.querySelectorAll("input:checked").length;
  const button = document.getElementById("compare-button");
  button.disabled = count < 2;
  button.textContent = count > 1 ? `Compare ${count}` : "Compare";
}

rows.addEventListener("change", choose);
document.addEventListener("lora:shown", choose);
document.addEventListener("lora:part", ({ detail: { name, html } }) => {
  if (name === "order") {
    document.getElementById("none").hidden = Boolean(html);
    const order = html.split(" ");
    for (const row of [...rows.children]) if (!order.includes(row.dataset.part)) row.remove();
    return;
  }
  const row = document.createElement("tr");
  row.dataset.part = name;
  row.innerHTML = html;
  rows.prepend(row);
  choose();
});
choose();
