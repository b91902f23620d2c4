// The trend over rounds: how far apart the arrivals were, and what that cost.

function drawTrend() {
  const points = report.trend;
  if (!points.length) return;
  const svg = byId("trend-chart");
  const full = byId("trend-box").clientWidth;
  const [left, top, high, gap, low] = [68, 18, 190, 34, 80];
  const width = full - left - 16;
  blank(svg, full, top + high + gap + low + 42);
  const rounds = points.reduce((sum, point) => sum + point.rounds, 0);
  let before = 0;
  const places = points.map((point) => {
    const from = left + (before / rounds) * width;
    before += point.rounds;
    return { from, to: left + (before / rounds) * width };
  });
  const middle = (i) => (places[i].from + places[i].to) / 2;

  // The spreads, logarithmic: their median and their largest may be far apart.
  const spreads = points
    .flatMap((point) => [point.median_spread_secs, point.max_spread_secs])
    .filter((value) => value > 0);
  const most = spreads.reduce((a, b) => Math.max(a, b), 1e-5);
  const top10 = Math.ceil(Math.log10(most) - 1e-9);
  const low10 = Math.max(
    top10 - 6,
    Math.min(top10 - 1, Math.floor(Math.log10(spreads.reduce((a, b) => Math.min(a, b), most)))),
  );
  const y = (value) =>
    top + high * (1 - (Math.log10(Math.max(value, 10 ** low10)) - low10) / (top10 - low10));
  for (let power = low10; power <= top10; power += 1) {
    svg.append(
      line(left, y(10 ** power), left + width, y(10 ** power), "grid"),
      label(left - 6, y(10 ** power) + 4, secs(10 ** power), "end"),
    );
  }
  svg.append(label(0, top - 7, "spread (logarithmic)"));
  const path = (name) => points.map((point, i) => [middle(i), y(point[`${name}_spread_secs`])]);
  const join = (at) => at.map((xy) => xy.map((value) => value.toFixed(1)).join(" ")).join("L");
  svg.append(draw("path", { d: `M${join(path("max"))}L${join(path("median").reverse())}z`, class: "band" }));
  for (const name of ["max", "median"]) {
    const at = path(name);
    svg.append(draw("path", { d: `M${join(at)}`, class: `line-${name}` }));
    if (points.length < 60)
      svg.append(...at.map(([cx, cy]) => draw("circle", { cx, cy, r: 2.5, class: `dot-${name}` })));
  }

  // The cost, as bars that can be added up by eye.
  const floor = top + high + gap + low;
  const costliest = points.reduce((a, point) => Math.max(a, point.cost_secs), 0) || 1;
  svg.append(label(0, floor - low - 8, "cost"), line(left, floor, left + width, floor, "grid"));
  for (const value of ticks(0, costliest, 2)) {
    const at = floor - (value / costliest) * low;
    svg.append(line(left, at, left + width, at, "grid"), label(left - 6, at + 4, secs(value), "end"));
  }
  points.forEach((point, i) => {
    const tall = (point.cost_secs / costliest) * low;
    const wide = places[i].to - places[i].from;
    svg.append(box(places[i].from, floor - tall, wide > 3 ? wide - 1 : Math.max(0.5, wide), tall, "cost"));
  });
  for (const value of ticks(0, rounds, Math.min(rounds, width / 90), false)) {
    const at = left + (value / rounds) * width;
    svg.append(line(at, floor, at, floor + 5, "grid"), label(at, floor + 19, count(value), "middle"));
  }
  svg.append(label(left + width, floor + 36, "rounds →", "end"));
  const cursor = draw("line", { y1: top, y2: floor, class: "here", visibility: "hidden" });
  svg.append(cursor);
  byId("trend-box").onpointerleave = () => cursor.setAttribute("visibility", "hidden");
  byId("trend-box").onpointermove = (event) => {
    const at = event.clientX - svg.getBoundingClientRect().left;
    const after = places.findIndex((one) => at < one.to);
    const index = after < 0 ? places.length - 1 : after;
    fill(cursor, { x1: middle(index), x2: middle(index), visibility: "visible" }, []);
    tell(event, describePoint(index));
  };
}

function describePoint(i) {
  const point = report.trend[i];
  const first = report.trend.slice(0, i).reduce((sum, other) => sum + other.rounds, 1);
  return [
    point.rounds === 1
      ? `round ${count(first)} of the job`
      : `rounds ${count(first)} to ${count(first + point.rounds - 1)} of the job`,
    `from ${moment(point.start)}`,
    `cost ${secs(point.cost_secs)}${point.worst_rank === null ? "" : `, most of it by ${rankName(point.worst_rank)}`}`,
    `spread ${secs(point.median_spread_secs)} (median), ${secs(point.max_spread_secs)} (largest)`,
    `median wait ${secs(point.median_wait_secs)}`,
  ];
}

function startTrend() {
  if (!report.trend.length) {
    byId("trend-box").replaceWith(make("p", { class: "empty" }, "No rounds."));
    return;
  }
  byId("trend-legend").append(
    make("span", {}, sample(line(0, 6, 26, 6, "line-max")), "largest spread (the upper line)"),
    make("span", {}, sample(line(0, 6, 26, 6, "line-median")), "median spread (the lower line)"),
    make("span", {}, sample(box(0, 1, 26, 10, "cost")), "cost: rank time lost"),
  );
  const largest = report.trend.reduce((a, point) => Math.max(a, point.max_spread_secs), 0);
  byId("trend-box").setAttribute(
    "aria-label",
    `Spread and cost over ${counted(report.rounds, "round")}; the largest spread was ${secs(largest)}.`,
  );
  byId("trend-box").addEventListener("pointerleave", (event) => tell(event, null));
  drawTrend();
}
