// The curves of one run: those of the server, and each new step as its event comes.
"use strict";
import { chart } from "./chart.js";
import { begin, toast } from "./page.js";

const run = document.body.dataset.run;
const places = Object.fromEntries([...document.querySelectorAll("[data-chart]")].map((each) => [each.dataset.chart, each]));
const MOST = 4000;
let data = null;
let plots = null;
let zoomed = null;
let waiting = false;

function make() {
  const marks = () => data.marks;
  const one = (place, series, more) => chart(place, series, { legend: false, marks, sync: "run", ...more });
  plots = {
    loss: one(places.loss, [
      { label: "Loss", color: "--s5", width: 1, alpha: 0.45 }, { label: "Smoothed", color: "--s0", width: 2.5 },
      { label: "Trained again later", color: "--quiet", width: 1, dash: [3, 3] },
    ], { legend: true, zoom: (low, high) => load([low, high]).catch(again) }),
    lr: one(places.lr, data.lr.map((_, n) => ({ label: `Group ${n + 1}`, color: `--s${n % 8}` }))),
    seconds: one(places.seconds, [{ label: "Seconds", color: "--s2" }]),
    memory: one(places.memory, [{ label: "MB", color: "--s3" }]),
  };
}

function draw() {
  waiting = false;
  if (plots && plots.lr.series.length - 1 !== data.lr.length) {
    Object.values(plots).forEach((each) => each.destroy());
    plots = null;
    delete places.loss.dataset.replaced;
  }
  if (!plots) make();
  const replaced = String(data.replaced.some((each) => each !== null));
  // only when it changes: the legend hides and shows it, too
  if (places.loss.dataset.replaced !== replaced) plots.loss.setSeries(3, { show: replaced === "true" });
  places.loss.dataset.replaced = replaced;
  plots.loss.setData([data.step, data.loss, data.smooth, data.replaced]);
  plots.lr.setData([data.step, ...data.lr]);
  plots.seconds.setData([data.step, data.seconds]);
  plots.memory.setData([data.step, data.memory]);
  places.loss.dataset.points = data.loss.filter((each) => each !== null).length;
  places.loss.dataset.last = data.step.at(-1) ?? 0;
  places.loss.dataset.marks = data.marks.length;
  const thin = data.all > data.step.length ? `${data.step.length} of ${data.all} steps drawn; drag to see a part in full` : "";
  document.getElementById("curve-note").textContent = data.step.length ? thin : "no step yet";
  document.getElementById("whole").hidden = !zoomed;
}

async function load(range = null) {
  const query = range ? `?low=${range[0]}&high=${range[1]}` : "";
  const response = await fetch(`/runs/${run}/curves.json${query}`);
  if (!response.ok) throw new Error("the curves cannot be read");
  data = await response.json();
  zoomed = range;
  draw();
}

function take(event) {
  if (zoomed) return;
  const last = data.step.at(-1) ?? 0;
  // steps that are trained again replace others: the server knows which
  if (event.event !== "step" || event.step <= last || data.step.length > MOST || data.lr.length !== event.lr.length) return again();
  const smooth = data.smooth.findLast((each) => each !== null) ?? event.loss;
  data.all += 1;
  data.step.push(event.step);
  data.loss.push(event.loss);
  data.smooth.push(event.loss === null ? smooth : data.smoothing * smooth + (1 - data.smoothing) * event.loss);
  data.replaced.push(null);
  data.seconds.push(event.seconds);
  data.memory.push(event.memory_mb);
  data.lr.forEach((each, n) => each.push(event.lr[n]));
  if (!waiting) requestAnimationFrame(draw);
  waiting = true;
}

let reading = null;
function again() {
  clearTimeout(reading);
  reading = setTimeout(() => load(zoomed).catch(again), 300);
}

document.getElementById("whole").addEventListener("click", () => load().catch((error) => toast(error.message, true)));
document.addEventListener("lora:event", ({ detail }) => take(detail));
while (!data) {
  await load().catch(() => {
    document.getElementById("connection").hidden = false;
    return new Promise((resolve) => setTimeout(resolve, 1000));
  });
}
begin(data.offset);
