// The heat map of the whole job.

const heat = report.heat;
const buckets = Math.max(0, ...heat.max_lateness_secs.map((row) => row.length));
const mapSecs = buckets * heat.bucket_secs || 1;

// -- the scale of lateness

const lateness = heat.max_lateness_secs.flat().filter((value) => value !== null);
const hottest = lateness.reduce((most, value) => Math.max(most, value), 1e-3);
// Logarithmic, from what is usual: a few late rounds stand out from the noise, and one rank that
// was very late once does not hide one that was somewhat late a thousand times.
const usual = lateness.map(Math.abs).sort((a, b) => a - b)[lateness.length >> 1] || 0;
const coldest = Math.min(Math.max(3 * usual, 1e-5), hottest / 30);
const heatOf = (value) =>
  value <= coldest ? 0 : Math.min(1, Math.log(value / coldest) / Math.log(hottest / coldest));

/** The colours of the scale as the style sheet has them now: light, dark or for print. */
function heatColours() {
  const style = getComputedStyle(document.documentElement);
  const stops = [0, 1, 2, 3, 4].map((i) => {
    const hex = style.getPropertyValue(`--heat-${i}`).trim();
    return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  });
  return (heat01) => {
    const position = heat01 * (stops.length - 1);
    const i = Math.min(stops.length - 2, Math.floor(position));
    return stops[i].map((from, channel) => Math.round(from + (stops[i + 1][channel] - from) * (position - i)));
  };
}

// -- the heat map of the whole job

/** Paint one pixel per rank and bucket; the style sheet stretches them. */
function paintHeat() {
  const canvas = byId("heat");
  // Where the screen is narrower than that, the latest of some buckets: none may get lost.
  const columns = Math.max(1, Math.min(buckets, Math.floor(plot.width * devicePixelRatio)));
  canvas.width = columns;
  canvas.height = heat.ranks.length;
  const colour = heatColours();
  const context = canvas.getContext("2d");
  const image = context.createImageData(columns, heat.ranks.length);
  heat.max_lateness_secs.forEach((row, y) => {
    const latest = new Array(columns).fill(null);
    row.forEach((value, bucket) => {
      const x = Math.floor((bucket * columns) / buckets);
      if (value !== null) latest[x] = Math.max(latest[x] ?? -Infinity, value);
    });
    latest.forEach((value, x) => {
      if (value !== null) image.data.set([...colour(heatOf(value)), 255], 4 * (y * columns + x));
    });
  });
  context.putImageData(image, 0, 0);
}

/** Whether a rank is in ranges such as "3, 17-31". */
const isAmong = (rank, ranges) =>
  ranges.split(", ").some((range) => {
    const [first, last = first] = range.split("-");
    return range && rank >= Number(first) && rank <= Number(last);
  });

const plot = {}; // where the heat map is drawn, in pixels
const timeToX = (unix) => plot.left + Math.max(0, Math.min(1, (unix - heat.start) / mapSecs)) * plot.width;

function drawOverview() {
  const svg = byId("heat-axes");
  const full = byId("overview").clientWidth;
  const rows = heat.ranks.length;
  const rowHeight = Math.max(2, Math.min(22, Math.floor(480 / rows)));
  const side = full > 620 ? 110 : 4; // for each rank's cost
  Object.assign(plot, { left: 52, top: 20, width: full - 52 - side, height: rows * rowHeight, rowHeight });
  blank(svg, full, plot.height + 66);
  Object.assign(byId("heat").style, {
    left: `${plot.left}px`,
    top: `${plot.top}px`,
    width: `${plot.width}px`,
    height: `${plot.height}px`,
  });
  paintHeat();
  const bottom = plot.top + plot.height;
  svg.append(
    draw("rect", {
      x: plot.left - 0.5,
      y: plot.top - 0.5,
      width: plot.width + 1,
      height: plot.height + 1,
      class: "frame",
    }),
  );

  // Ranks: the costliest by name, others where there is room.
  const costliest = report.ranks
    .slice(0, 3)
    .filter((rank) => rank.cost_secs > 0.05 * report.cost_secs)
    .map((rank) => rank.rank);
  const free = [];
  for (const rank of new Set([...costliest, ...heat.ranks])) {
    const row = heat.ranks.indexOf(rank);
    const y = plot.top + (row + 0.5) * rowHeight;
    if (row < 0 || free.some((other) => Math.abs(other - y) < 13)) continue;
    if (!costliest.includes(rank) && rowHeight < 12 && row % 16) continue;
    free.push(y);
    svg.append(
      label(
        plot.left - 6,
        y + 4,
        (worst && rank === worst.rank ? "▶ " : "") + rank,
        "end",
        costliest.includes(rank) ? "late" : null,
      ),
    );
  }
  for (const after of ticks(0, mapSecs, plot.width / 95)) {
    const x = timeToX(heat.start + after);
    svg.append(
      line(x, bottom, x, bottom + 9, "grid"),
      label(x, bottom + 24, after ? secs(after) : "0", "middle"),
    );
  }
  svg.append(
    label(plot.left + plot.width, bottom + 42, "time since the start →", "end"),
    label(0, plot.top - 7, "rank"),
  );

  if (side > 10) {
    const most = Math.max(...heat.ranks.map((rank) => rankOf.get(rank)?.cost_secs || 0));
    svg.append(label(full, bottom + 42, "cost of each rank", "end"));
    heat.ranks.forEach((rank, row) => {
      const cost = rankOf.get(rank)?.cost_secs || 0;
      const kind = worst && rank === worst.rank ? "cost worst" : "cost";
      if (cost > 0)
        svg.append(
          box(
            plot.left + plot.width + 8,
            plot.top + row * rowHeight,
            (cost / most) * (side - 8),
            Math.max(1, rowHeight - 1),
            kind,
          ),
        );
    });
  }
  for (const round of report.detail)
    svg.append(line(timeToX(round.at), bottom + 1, timeToX(round.at), bottom + 6, "here"));
  for (const failure of report.failures) {
    const words = `${roundName(failure)} failed (${failure.kind}), ${elapsed(failure.at)}`;
    const mark = (y, title) =>
      draw(
        "text",
        { x: timeToX(failure.at), y, "text-anchor": "middle", class: "fail mark" },
        "✕",
        draw("title", {}, title),
      );
    svg.append(mark(plot.top - 5, words));
    if (rowHeight < 8) continue;
    heat.ranks.forEach((rank, row) => {
      if (isAmong(rank, failure.missing))
        svg.append(mark(plot.top + (row + 0.5) * rowHeight + 5, `${rankName(rank)} was missing: ${words}`));
    });
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
  const bottom = plot.top + plot.height;
  group.replaceChildren(
    line(x, plot.top, x, bottom + 6, "here"),
    draw("path", { d: `M${x} ${bottom + 2}l5 9h-10z`, class: "handle" }),
  );
}

/** The rank and the bucket under the pointer. */
function cellAt(event) {
  const box = byId("heat").getBoundingClientRect();
  const inside = (part, cells) => Math.max(0, Math.min(cells - 1, Math.floor(part * cells)));
  return {
    row: inside((event.clientY - box.top) / box.height, heat.ranks.length),
    bucket: inside((event.clientX - box.left) / box.width, buckets),
  };
}

function describeCell(event) {
  const { row, bucket } = cellAt(event);
  const late = heat.max_lateness_secs[row][bucket] ?? null;
  const start = heat.start + bucket * heat.bucket_secs;
  const words =
    late === null ? "no round" : late <= 0 ? "never later than the median" : `up to ${secs(late)} late`;
  return [
    rankName(heat.ranks[row]),
    words,
    `${secs(bucket * heat.bucket_secs)} to ${secs((bucket + 1) * heat.bucket_secs)}, from ${moment(start)}`,
  ];
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
    make("span", {}, "✕ failed round, and who was missing"),
    make("span", {}, "▲ the round below; each small tick is a round that can be shown"),
  );
  byId("heat-legend").title = `logarithmic: ${secs(coldest)} and less count as on time`;
}
