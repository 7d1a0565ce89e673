// The grid of samples: arrow keys move both ways, also in the large view; black pictures are flagged.
"use strict";

const viewer = document.createElement("dialog");
viewer.id = "viewer";
viewer.innerHTML = '<img alt=""><p></p><div class="buttons"><span class="quiet">arrow keys: step and prompt</span><button>Close</button></div>';
document.body.append(viewer);
viewer.querySelector("button").addEventListener("click", () => viewer.close());
let current = null;

function neighbour(link, key) {
  const cell = link.closest("td");
  const row = cell.parentElement;
  const at = [...row.children].indexOf(cell);
  const next = { ArrowLeft: cell.previousElementSibling, ArrowRight: cell.nextElementSibling,
    ArrowUp: row.previousElementSibling?.children[at], ArrowDown: row.nextElementSibling?.children[at] }[key];
  return next?.querySelector("a.sample");
}

function show(link) {
  current = link;
  const { step, prompt, seed } = link.dataset;
  viewer.querySelector("img").src = link.href;
  viewer.querySelector("p").textContent = [`step ${step}`, prompt, seed && `seed ${seed}`].filter(Boolean).join(" · ");
  if (!viewer.open) viewer.showModal();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a.sample");
  if (!link || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  show(link);
});

document.addEventListener("keydown", (event) => {
  const link = viewer.open ? current : event.target.closest?.("a.sample");
  if (!link?.isConnected || !event.key.startsWith("Arrow")) return;
  const next = neighbour(link, event.key);
  event.preventDefault();
  if (!next) return;
  next.focus();
  if (viewer.open) show(next);
});

// what is not a number in the model's output becomes black in the file
function isBlack(image) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 16;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0, 16, 16);
  return context.getImageData(0, 0, 16, 16).data.every((value, at) => at % 4 === 3 || value < 6);
}

function look(image) {
  const link = image.closest("a.sample");
  if (!link || !isBlack(image)) return;
  link.classList.add("black");
  image.alt += " (black picture)";
}

function watch() {
  for (const image of document.querySelectorAll(".sample img:not([data-seen])")) {
    image.dataset.seen = "";
    if (image.complete && image.naturalWidth) look(image);
    else image.addEventListener("load", () => look(image), { once: true });
  }
}

document.addEventListener("lora:shown", watch);
watch();
