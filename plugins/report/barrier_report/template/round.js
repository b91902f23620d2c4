// One round, rank by rank; and how the heat map and it are started.

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
  round.failed = round.ranks.some((rank) => rank.outcome !== OUTCOME_PASSED) || round.ranks.length === 0;
  // Where a round failed because ranks were missing, the last of those that came is not to blame.
  const last = round.failed && round.missing_count ? null : arrivals[arrivals.length - 1];
  round.last = round.ranks.find((rank) => rank.arrived === last) || null;
}
// To begin with, the costliest round of the costliest rank.
const blamed = (round) => worst !== null && round.last?.rank === worst.rank;
const heavier = (a, b) => (blamed(a) === blamed(b) ? a.cost_secs > b.cost_secs : blamed(a));
let chosen = report.detail.reduce((best, round, i, all) => (heavier(round, all[best]) ? i : best), 0);

// -- choosing and drawing

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
  const words = [
    `${barrier ? `${barrier.barrier_type} '${barrier.prefix}', ` : ""}${roundName(round)}, ${elapsed(round.at)} (${moment(round.at)}). `,
  ];
  if (round.failed)
    words.push(
      make(
        "span",
        { class: "failed-text" },
        `Failed: ${[...new Set(round.ranks.map(outcomeName))].filter((name) => name !== "passed").join(", ") || "no rank left it"}. `,
      ),
    );
  if (round.missing_count)
    words.push(
      make(
        "span",
        { class: "failed-text" },
        `Without a record: ${counted(round.missing_count, "rank")} (${round.missing_text}). `,
      ),
    );
  if (round.last)
    words.push(
      "Last came ",
      make("strong", {}, rankName(round.last.rank)),
      `, ${secs(late(round, round.last))} after the median${some ? " of the ranks shown" : ""}${round.failed ? "" : `; the others waited ${secs(round.cost_secs)} together`}.`,
    );
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
    svg.append(
      line(x(time), top, x(time), bottom + 4, "grid"),
      label(x(time), bottom + 18, time ? secs(time) : "0", "middle"),
    );
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
      group.append(
        box(
          x(rank.arrived),
          y + (height - thick) / 2,
          Math.max(1, x(rank.left) - x(rank.arrived)),
          thick,
          bar,
        ),
      );
    }
    if (isLast) {
      const [at, middle, half] = [x(rank.arrived), y + height / 2, Math.max(4, thick / 2)];
      group.append(
        line(left, middle, at, middle, "late-way"),
        draw("path", {
          d: `M${at} ${middle - half}l${half} ${half}l${-half} ${half}l${-half} ${-half}z`,
          class: "late-mark",
        }),
      );
    }
    // Names: of all ranks where there is room; of the last and the missing ones before others.
    const nearby = rows
      .slice(row + 1, row + Math.ceil(13 / height))
      .some((other) => round.last && other.rank === round.last.rank);
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
  byId("round-legend").append(
    make("span", {}, sample(box(0, 1, 26, 10, "wait")), "waits, from its arrival until it goes on"),
    make(
      "span",
      {},
      sample(line(0, 6, 18, 6, "late-way"), draw("path", { d: "M18 1l5 5l-5 5l-5-5z", class: "late-mark" })),
      "the last to arrive",
    ),
    make("span", {}, sample(box(0, 1, 26, 10, "failed")), "waited in vain: the round failed"),
    make("span", {}, sample(line(0, 6, 26, 6, "gone")), "no record of this round"),
  );
}

// -- the start of both

function startTimeline() {
  const canvas = byId("heat");
  if (!heat.ranks.length || !buckets) {
    byId("overview").replaceWith(make("p", { class: "empty" }, "No rounds to draw."));
  } else {
    canvas.setAttribute(
      "aria-label",
      `Heat map of the lateness of ${counted(heat.ranks.length, "rank")} over time. ${byId("headline").textContent}`,
    );
    if (worst) canvas.dataset.worstRank = worst.rank;
    if (heat.ranks.length < report.world_size) {
      byId("heat-legend").append(
        make("span", {}, `the ${count(heat.ranks.length)} costliest of ${count(report.world_size)} ranks`),
      );
    }
    describeScale();
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
    const what = round.failed
      ? `✕ failed${round.missing_count ? `, missing: ${round.missing_text}` : ""}`
      : `${secs(round.cost_secs)} lost`;
    list.append(
      make(
        "option",
        { value: i },
        `${round.round}${round.tag ? ` '${round.tag}'` : ""}: ${what}${round.last ? `, last: rank ${round.last.rank}` : ""}`,
      ),
    );
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
  if (byId("heat")) drawOverview();
  drawRound();
}
