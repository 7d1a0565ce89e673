// A chart of uPlot in the page's colours, as wide as its place.
"use strict";

const style = () => getComputedStyle(document.documentElement);
export const color = (name) => style().getPropertyValue(name).trim();

function short(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}

function lines(marks) {
  return (plot) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    for (const mark of marks()) {
      const x = Math.round(plot.valToPos(mark.step, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = color(mark.kind === "bad" ? "--bad" : "--busy");
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  };
}

export function chart(place, series, { marks = () => [], legend = true, zoom = null, sync = null } = {}) {
  const axis = { stroke: color("--quiet"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
  const options = {
    width: place.clientWidth || 300,
    height: place.clientHeight - (legend ? 30 : 0),
    scales: { x: { time: false } },
    legend: { show: legend },
    cursor: { drag: { x: Boolean(zoom), y: false, setScale: false }, sync: sync ? { key: sync } : undefined, points: { size: 7 } },
    axes: [{ ...axis, size: 32 }, { ...axis, size: 62, values: (_, ticks) => ticks.map(short) }],
    series: [{ label: "Step" }, ...series.map((each) => ({
      width: 1.5, points: { show: false }, value: (_, value) => short(value), ...each, stroke: () => color(each.color),
    }))],
    hooks: {
      draw: [lines(marks)],
      setSelect: [(plot) => {
        if (!zoom || plot.select.width < 4) return;
        const [low, high] = [plot.select.left, plot.select.left + plot.select.width].map((at) => plot.posToVal(at, "x"));
        plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
        zoom(low, high);
      }],
    },
  };
  const plot = new uPlot(options, [[], ...series.map(() => [])], place);
  new ResizeObserver(() => plot.setSize({ width: place.clientWidth, height: options.height })).observe(place);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot.redraw(false, true));
  return plot;
}
