// The timeline: the heat map of the whole run, and one round rank by rank.

const heat = report.heat;
const buckets = Math.max(0, ...heat.max_lateness_secs.map((row) => row.length));
const OUTCOME_PASSED = report.outcomes.indexOf("passed");

// A round's ranks come as one flat list: rank, arrived, left, outcome.
for (const round of report.detail) {
  const flat = round.ranks;
  round.ranks = [];
  for (let i = 0; i < flat.length; i += 4) {
    round.ranks.push({ rank: flat[i], arrived: flat[i + 1], left: flat[i + 2], outcome: flat[i + 3] });
  }
  const arrivals = round.ranks.map((rank) => rank.arrived).sort((a, b) => a - b);
  const middle = arrivals.length >> 1;
  round.median = arrivals.length % 2 ? arrivals[middle] : (arrivals[middle - 1] + arrivals[middle]) / 2;
  round.last = round.ranks.find((rank) => rank.arrived === arrivals[arrivals.length - 1]) || null;
  round.failed = round.ranks.some((rank) => rank.outcome !== OUTCOME_PASSED) || round.ranks.length === 0;
}
// To begin with, the costliest round of the costliest rank.
const blamed = (round) => worst !== null && round.last?.rank === worst.rank;
const heavier = (a, b) => (blamed(a) === blamed(b) ? a.cost_secs > b.cost_secs : blamed(a));
let chosen = report.detail.reduce((best, round, i, all) => (heavier(round, all[best]) ? i : best), 0);

// -- the scale of lateness

const lateness = heat.max_lateness_secs.flat().filter((value) => value !== null);
const hottest = lateness.reduce((most, value) => Math.max(most, value), 1e-3);
// Logarithmic, from what is usual: a few late rounds stand out from the noise, and one rank that
// was very late once does not hide one that was somewhat late a thousand times.
const usual = lateness.map(Math.abs).sort((a, b) => a - b)[lateness.length >> 1] || 0;
const coldest = Math.min(Math.max(3 * usual, 1e-5), hottest / 30);
const heatOf = (value) => (value <= coldest ? 0 : Math.min(1, Math.log(value / coldest) / Math.log(hottest / coldest)));

/** The colours of the scale as the style sheet has them now: light, dark or for print. */
function heatColours() {
  const style = getComputedStyle(document.documentElement);
  const stops = [0, 1, 2, 3, 4].map((i) => {
    const hex = style.getPropertyValue(`--heat-${i}`).trim();
    return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  });
  return (heat01) => {
    const place = heat01 * (stops.length - 1);
    const i = Math.min(stops.length - 2, Math.floor(place));
    return stops[i].map((from, channel) => Math.round(from + (stops[i + 1][channel] - from) * (place - i)));
  };
}

// -- the heat map of the whole run

/** Paint one pixel per rank and bucket; the style sheet stretches them. */
function paintHeat() {
  const canvas = byId("heat");
  canvas.width = buckets;
  canvas.height = heat.ranks.length;
  const colour = heatColours();
  const context = canvas.getContext("2d");
  const image = context.createImageData(buckets, heat.ranks.length);
  heat.max_lateness_secs.forEach((row, y) =>
    row.forEach((value, x) => {
      if (value !== null) image.data.set([...colour(heatOf(value)), 255], 4 * (y * buckets + x));
    }),
  );
  context.putImageData(image, 0, 0);
}

const place = {}; // where the heat map is drawn, in pixels
const timeToX = (unix) => place.left + ((unix - heat.start) / (buckets * heat.bucket_secs)) * place.width;

function drawOverview() {
  const svg = byId("heat-axes");
  const full = byId("overview").clientWidth;
  const rows = heat.ranks.length;
  const rowHeight = Math.max(2, Math.min(22, Math.floor(480 / rows)));
  const side = full > 620 ? 110 : 4; // for each rank's cost
  Object.assign(place, { left: 52, top: 20, width: full - 52 - side, height: rows * rowHeight, rowHeight });
  blank(svg, full, place.height + 66);
  Object.assign(byId("heat").style, {
    left: `${place.left}px`, top: `${place.top}px`, width: `${place.width}px`, height: `${place.height}px`,
    imageRendering: place.width * devicePixelRatio < buckets ? "auto" : "pixelated",
  });
  const bottom = place.top + place.height;
  svg.append(draw("rect", { x: place.left - 0.5, y: place.top - 0.5, width: place.width + 1, height: place.height + 1, class: "frame" }));

  // Ranks: the costliest by name, others where there is room.
  const costliest = report.ranks.slice(0, 3).filter((rank) => rank.cost_secs > 0.05 * report.cost_secs).map((rank) => rank.rank);
  const free = [];
  for (const rank of new Set([...costliest, ...heat.ranks])) {
    const row = heat.ranks.indexOf(rank);
    const y = place.top + (row + 0.5) * rowHeight;
    if (row < 0 || free.some((other) => Math.abs(other - y) < 13)) continue;
    if (!costliest.includes(rank) && rowHeight < 12 && row % 16) continue;
    free.push(y);
    svg.append(label(place.left - 6, y + 4, (worst && rank === worst.rank ? "▶ " : "") + rank, "end", costliest.includes(rank) ? "late" : null));
  }
  for (const after of ticks(0, buckets * heat.bucket_secs, place.width / 95)) {
    const x = timeToX(heat.start + after);
    svg.append(line(x, bottom, x, bottom + 9, "grid"), label(x, bottom + 24, after ? secs(after) : "0", "middle"));
  }
  svg.append(label(place.left + place.width, bottom + 42, "time since the start →", "end"), label(0, place.top - 7, "rank"));

  if (side > 10) {
    const most = Math.max(...heat.ranks.map((rank) => rankOf.get(rank)?.cost_secs || 0));
    svg.append(label(full, place.top - 7, "cost of each rank", "end"));
    heat.ranks.forEach((rank, row) => {
      const cost = rankOf.get(rank)?.cost_secs || 0;
      const kind = worst && rank === worst.rank ? "cost worst" : "cost";
      if (cost > 0) svg.append(box(place.left + place.width + 8, place.top + row * rowHeight, (cost / most) * (side - 8), Math.max(1, rowHeight - 1), kind));
    });
  }
  for (const round of report.detail) svg.append(line(timeToX(round.at), bottom + 1, timeToX(round.at), bottom + 6, "here"));
  for (const failure of report.failures) {
    const words = `${roundName(failure)} failed (${failure.kind}), ${elapsed(failure.at)}`;
    svg.append(draw("text", { x: timeToX(failure.at), y: place.top - 5, "text-anchor": "middle", class: "fail mark" }, "✕", draw("title", {}, words)));
  }
  svg.append(draw("g", { id: "heat-here" }));
  markChosen();
}

/** Show on the heat map where the round is that is drawn below. */
function markChosen() {
  const round = report.detail[chosen];
  const group = byId("heat-here");
  if (!round || !group) return;
  const x = timeToX(round.at);
  const bottom = place.top + place.height;
  group.replaceChildren(line(x, place.top, x, bottom + 6, "here"), draw("path", { d: `M${x} ${bottom + 2}l5 9h-10z`, class: "handle" }));
}

/** The rank and the bucket under the pointer. */
function cellAt(event) {
  const frame = byId("heat").getBoundingClientRect();
  const inside = (part, cells) => Math.max(0, Math.min(cells - 1, Math.floor(part * cells)));
  return {
    row: inside((event.clientY - frame.top) / frame.height, heat.ranks.length),
    bucket: inside((event.clientX - frame.left) / frame.width, buckets),
  };
}

function describeCell(event) {
  const { row, bucket } = cellAt(event);
  const late = heat.max_lateness_secs[row][bucket] ?? null;
  const start = heat.start + bucket * heat.bucket_secs;
  const words = late === null ? "no round" : late <= 0 ? "never later than the median" : `up to ${secs(late)} late`;
  return [rankName(heat.ranks[row]), words, `${secs(bucket * heat.bucket_secs)} to ${secs((bucket + 1) * heat.bucket_secs)}, from ${moment(start)}`];
}

/** The costliest round of the bucket; where there is none, the nearest. */
function chooseAt(event) {
  const { bucket } = cellAt(event);
  const start = heat.start + bucket * heat.bucket_secs;
  const far = (round) => Math.max(0, start - round.at, round.at - start - heat.bucket_secs);
  const better = (a, b) => far(a) - far(b) || b.cost_secs - a.cost_secs;
  const nearest = [...report.detail].sort(better)[0];
  if (nearest) choose(report.detail.indexOf(nearest));
}

function describeScale() {
  byId("heat-legend").append(
    make("span", {}, "on time", make("i", { class: "scale" }), `${secs(hottest)} late`),
    make("span", {}, make("i", { class: "no-round" }), "no round"),
    make("span", {}, "✕ failed round"),
    make("span", {}, "▲ the round below; each small tick is a round that can be shown"),
  );
  byId("heat-legend").title = `logarithmic: ${secs(coldest)} and less count as on time`;
}

// -- one round

function choose(index) {
  chosen = Math.max(0, Math.min(report.detail.length - 1, index));
  byId("rounds").value = String(chosen);
  byId("previous").disabled = chosen === 0;
  byId("next").disabled = chosen === report.detail.length - 1;
  markChosen();
  drawRound();
}

const late = (round, rank) => rank.arrived - round.median;
const outcomeName = (rank) => report.outcomes[rank.outcome];

function describeRound(round) {
  const barrier = report.barriers[round.barrier];
  const some = barrier && round.ranks.length + round.missing_count < barrier.world_size;
  const words = [`${barrier ? `${barrier.barrier_type} '${barrier.prefix}', ` : ""}${roundName(round)}, ${elapsed(round.at)} (${moment(round.at)}). `];
  if (round.failed) words.push(make("span", { class: "failed-text" }, `Failed: ${[...new Set(round.ranks.map(outcomeName))].filter((name) => name !== "passed").join(", ") || "no rank left it"}. `));
  if (round.missing_count) words.push(make("span", { class: "failed-text" }, `Without a record: ${counted(round.missing_count, "rank")} (${round.missing_text}). `));
  if (round.last) words.push("Last came ", make("strong", {}, rankName(round.last.rank)), `, ${secs(late(round, round.last))} after the median${some ? " of the ranks shown" : ""}; the others waited ${secs(round.cost_secs)} together.`);
  byId("round-text").replaceChildren(...words);
}

function drawRound() {
  const round = report.detail[chosen];
  if (!round) return;
  describeRound(round);
  const missing = round.missing.map((rank) => ({ rank, arrived: null }));
  const rows = [...round.ranks, ...missing];
  const byArrival = byId("by-arrival").checked;
  rows.sort((a, b) => (byArrival ? (a.arrived ?? Infinity) - (b.arrived ?? Infinity) : 0) || a.rank - b.rank);

  const svg = byId("round-chart");
  const full = byId("round").clientWidth;
  const height = Math.max(3, Math.min(22, Math.floor(480 / Math.max(1, rows.length))));
  const [left, top] = [52, 20];
  const width = full - left - 16;
  const bottom = top + rows.length * height;
  blank(svg, full, bottom + 42);
  const start = Math.min(0, ...round.ranks.map((rank) => rank.arrived));
  const end = Math.max(0, ...round.ranks.map((rank) => rank.left));
  const span = end - start || 1e-6;
  const x = (time) => left + ((time - start + span * 0.02) / (span * 1.04)) * width;
  for (const time of ticks(start, end, width / 90)) {
    svg.append(line(x(time), top, x(time), bottom + 4, "grid"), label(x(time), bottom + 18, time ? secs(time) : "0", "middle"));
  }
  const zero = round.failed ? "0 is when the first rank gave up" : "0 is when the last rank arrived";
  svg.append(label(left + width, bottom + 36, zero, "end"), label(0, top - 7, "rank"));

  let above = -Infinity;
  rows.forEach((rank, row) => {
    const y = top + row * height;
    const thick = Math.max(2, height - 2);
    const isLast = round.last !== null && rank.rank === round.last.rank;
    const kind = rank.arrived === null ? "fail" : isLast ? "late" : null;
    const group = draw("g", { "data-rank": rank.rank, "data-row": row, class: kind });
    group.append(box(left, y + (height - thick) / 2, width, thick, "track"));
    if (rank.arrived === null) {
      group.append(line(left, y + height / 2, left + width, y + height / 2, "gone"));
    } else {
      const bar = rank.outcome === OUTCOME_PASSED ? "wait" : "failed";
      group.append(box(x(rank.arrived), y + (height - thick) / 2, Math.max(1, x(rank.left) - x(rank.arrived)), thick, bar));
    }
    if (isLast) {
      const [at, middle, half] = [x(rank.arrived), y + height / 2, Math.max(4, thick / 2)];
      group.append(line(left, middle, at, middle, "late-way"), draw("path", { d: `M${at} ${middle - half}l${half} ${half}l${-half} ${half}l${-half} ${-half}z`, class: "late-mark" }));
    }
    // Names: of all ranks where there is room; of the last and the missing ones before others.
    const nearby = rows.slice(row + 1, row + Math.ceil(13 / height)).some((other) => round.last && other.rank === round.last.rank);
    if (y - above >= 13 - 1e-6 && (kind || height >= 13 || (row % 16 === 0 && !nearby))) {
      above = y;
      group.append(label(left - 6, y + height / 2 + 4, rank.rank, "end", kind));
    }
    svg.append(group);
  });
  svg.append(line(x(0), top, x(0), bottom, "zero"));
  byId("round").setAttribute("aria-label", byId("round-text").textContent);
  byId("round").dataset.round = round.round;
}

function describeBar(event) {
  const group = event.target.closest("[data-rank]");
  const round = report.detail[chosen];
  if (!group) return null;
  const number = Number(group.dataset.rank);
  const rank = round.ranks.find((one) => one.rank === number);
  const heading = [rankName(number), roundName(round)];
  if (!rank) return [...heading, "no record of this round, although others have one"];
  const after = late(round, rank);
  return [
    ...heading,
    rank === round.last ? "the last to arrive" : "",
    `arrived ${secs(Math.abs(after))} ${after < 0 ? "before" : "after"} the median (${moment(round.at + rank.arrived)})`,
    `waited ${secs(rank.left - rank.arrived)}`,
    `outcome: ${outcomeName(rank)}`,
  ];
}

function describeMarks() {
  const sample = (...children) => draw("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" }, ...children);
  byId("round-legend").append(
    make("span", {}, sample(box(0, 1, 26, 10, "wait")), "waits, from its arrival until it goes on"),
    make("span", {}, sample(line(0, 6, 18, 6, "late-way"), draw("path", { d: "M18 1l5 5l-5 5l-5-5z", class: "late-mark" })), "the last to arrive"),
    make("span", {}, sample(box(0, 1, 26, 10, "failed")), "waited in vain: the round failed"),
    make("span", {}, sample(line(0, 6, 26, 6, "gone")), "no record of this round"),
  );
}

// -- both

function startTimeline() {
  const canvas = byId("heat");
  if (!heat.ranks.length || !buckets) {
    byId("overview").replaceWith(make("p", { class: "empty" }, "No rounds to draw."));
  } else {
    canvas.setAttribute("aria-label", `Heat map of the lateness of ${counted(heat.ranks.length, "rank")} over time. ${byId("headline").textContent}`);
    if (worst) canvas.dataset.worstRank = worst.rank;
    if (heat.ranks.length < report.world_size) {
      byId("heat-legend").append(make("span", {}, `the ${count(heat.ranks.length)} costliest of ${count(report.world_size)} ranks`));
    }
    describeScale();
    paintHeat();
    drawOverview();
    tellOn(canvas, describeCell);
    canvas.addEventListener("click", chooseAt);
  }
  if (!report.detail.length) {
    byId("one-round").remove();
    return;
  }
  const list = byId("rounds");
  report.detail.forEach((round, i) => {
    const what = round.failed ? "✕ failed" : `${secs(round.cost_secs)} lost`;
    list.append(make("option", { value: i }, `${round.round}${round.tag ? ` '${round.tag}'` : ""}: ${what}${round.last ? `, last: rank ${round.last.rank}` : ""}`));
  });
  list.addEventListener("change", () => choose(Number(list.value)));
  byId("previous").addEventListener("click", () => choose(chosen - 1));
  byId("next").addEventListener("click", () => choose(chosen + 1));
  byId("by-arrival").addEventListener("change", drawRound);
  for (const chart of [canvas, byId("round")]) {
    chart.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      choose(chosen + by);
    });
  }
  describeMarks();
  tellOn(byId("round-chart"), describeBar);
  choose(chosen);
}

function redrawTimeline() {
  if (byId("heat") && buckets) {
    paintHeat();
    drawOverview();
  }
  drawRound();
}
