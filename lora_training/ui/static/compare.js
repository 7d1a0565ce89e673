// The smoothed losses of several runs on one axis.
"use strict";
import { chart } from "./chart.js";

const place = document.querySelector("[data-compare]");
const { runs } = await (await fetch(`/runs/compare/curves.json?${place.dataset.compare}`)).json();
const series = runs.map((run, n) => ({ label: run.name, spanGaps: true, color: `--s${n % 8}`, width: 2, dash: n < 8 ? undefined : [6, 3] }));
const plot = chart(place, series, { legend: runs.length <= 12 });
plot.setData(uPlot.join(runs.map((run) => [run.step, run.smooth])));
place.dataset.lines = runs.length;
