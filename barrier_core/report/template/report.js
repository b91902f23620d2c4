// The headline, the trend, tables, failures; and the start of it all.

const span = Math.max(0, report.end - report.start);

/** Whether it is a host's ranks together that cost much, and none of them by itself. */
function hostIsToBlame() {
  const [host] = report.hosts;
  const much = Math.min(0.75, 2 / report.hosts.total) * report.cost_secs;
  return worst !== null && report.hosts.total > 1 && host.cost_secs >= much && host.cost_secs > 2 * worst.cost_secs;
}

function sayHeadline() {
  document.title = `Barrier report: ${report.source}`;
  byId("source").textContent = report.rounds ? `${report.source} · ${moment(report.start)}` : report.source;
  const headline = byId("headline");
  const [host] = report.hosts;
  const hosts = report.hosts.total;
  if (!report.rounds) {
    headline.textContent = "No rounds in this folder";
  } else if (!worst) {
    headline.textContent = report.world_size === 1 ? "One rank alone, which waits for nobody" : "No rank was late";
  } else {
    const blamed = hostIsToBlame() ? host : worst;
    const name = blamed === host ? `Host ${host.host} (ranks ${host.ranks})` : rankName(worst.rank).replace(/^r/, "R");
    headline.replaceChildren(make("em", {}, name), ` was last in ${count(blamed.times_last)} of ${counted(report.rounds, "round")} and cost ${secs(blamed.cost_secs)} of rank time.`);
    if (blamed === host) headline.dataset.host = host.host;
    else headline.dataset.rank = worst.rank;
  }
  const words = [];
  if (worst) {
    const part = (row) => share(row.cost_secs, report.cost_secs);
    const [tag] = report.tags;
    if (hostIsToBlame()) {
      words.push(`That is ${part(host)} of all that was lost. Costliest rank: ${rankName(worst.rank)}, ${part(worst)}.`);
    } else {
      const usual = report.world_size > 3 && worst.cost_secs < (2 / report.world_size) * report.cost_secs;
      words.push(`That is ${part(worst)} of all that was lost${usual ? ": no rank stands out" : ""}.`);
      if (hosts > 1) words.push(`Costliest host: ${host.host} (ranks ${host.ranks}), ${part(host)}.`);
    }
    if (report.tags.length > 1) words.push(`Costliest tag: ${tag.tag ? `'${tag.tag}'` : "no tag"}, ${part(tag)}.`);
  }
  if (report.failed) words.push(`${counted(report.failed, "round")} failed.`);
  byId("subline").textContent = words.join(" ");

  const figure = (name, value, more, kind) => make("div", { class: kind }, make("dt", {}, name), make("dd", { class: "value" }, value), make("dd", { class: "more" }, more));
  byId("figures").append(
    figure("Length of the run", secs(span), report.rounds ? `until ${moment(report.end)}` : ""),
    figure("Ranks", count(report.world_size), `on ${counted(hosts, "host")}`),
    figure("Rounds", count(report.rounds), `of ${counted(report.barriers.total, "barrier")}`),
    figure("Failed rounds", count(report.failed), report.failed ? `${share(report.failed, report.rounds)} of all rounds` : report.rounds ? "every round passed" : "", report.failed ? "bad" : null),
    figure("Rank time lost", secs(report.cost_secs), `waiting for the last rank: ${share(report.cost_secs, span * report.world_size)} of all ranks' time`, report.cost_secs > 0 ? "costly" : null),
  );
}

// -- the trend

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
  const spreads = points.flatMap((point) => [point.median_spread_secs, point.max_spread_secs]).filter((value) => value > 0);
  const most = spreads.reduce((a, b) => Math.max(a, b), 1e-5);
  const top10 = Math.ceil(Math.log10(most) - 1e-9);
  const low10 = Math.max(top10 - 6, Math.min(top10 - 1, Math.floor(Math.log10(spreads.reduce((a, b) => Math.min(a, b), most)))));
  const y = (value) => top + high * (1 - (Math.log10(Math.max(value, 10 ** low10)) - low10) / (top10 - low10));
  for (let power = low10; power <= top10; power += 1) {
    svg.append(line(left, y(10 ** power), left + width, y(10 ** power), "grid"), label(left - 6, y(10 ** power) + 4, secs(10 ** power), "end"));
  }
  svg.append(label(0, top - 7, "spread (logarithmic)"));
  const path = (name) => points.map((point, i) => [middle(i), y(point[`${name}_spread_secs`])]);
  const join = (at) => at.map((xy) => xy.map((value) => value.toFixed(1)).join(" ")).join("L");
  svg.append(draw("path", { d: `M${join(path("max"))}L${join(path("median").reverse())}z`, class: "band" }));
  for (const name of ["max", "median"]) {
    const at = path(name);
    svg.append(draw("path", { d: `M${join(at)}`, class: `line-${name}` }));
    if (points.length < 60) svg.append(...at.map(([cx, cy]) => draw("circle", { cx, cy, r: 2.5, class: `dot-${name}` })));
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
    svg.append(box(places[i].from, floor - tall, Math.max(0.5, places[i].to - places[i].from - (places[i].to - places[i].from > 3 ? 1 : 0)), tall, "cost"));
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
    const i = Math.max(0, places.findIndex((one) => at < one.to));
    const index = at >= places[places.length - 1].to ? places.length - 1 : i;
    fill(cursor, { x1: middle(index), x2: middle(index), visibility: "visible" }, []);
    tell(event, describePoint(index));
  };
}

function describePoint(i) {
  const point = report.trend[i];
  const first = report.trend.slice(0, i).reduce((sum, other) => sum + other.rounds, 1);
  return [
    point.rounds === 1 ? `round ${count(first)} of the run` : `rounds ${count(first)} to ${count(first + point.rounds - 1)} of the run`,
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
  const sample = (...children) => draw("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" }, ...children);
  byId("trend-legend").append(
    make("span", {}, sample(line(0, 6, 26, 6, "line-max")), "largest spread (the upper line)"),
    make("span", {}, sample(line(0, 6, 26, 6, "line-median")), "median spread (the lower line)"),
    make("span", {}, sample(box(0, 1, 26, 10, "cost")), "cost: rank time lost"),
  );
  const largest = report.trend.reduce((a, point) => Math.max(a, point.max_spread_secs), 0);
  byId("trend-box").setAttribute("aria-label", `Spread and cost over ${counted(report.rounds, "round")}; the largest spread was ${secs(largest)}.`);
  byId("trend-box").addEventListener("pointerleave", (event) => tell(event, null));
  drawTrend();
}

// -- tables

const cost = { title: "cost", about: "Rank time that others waited for it", of: (row) => row.cost_secs, show: secs, bar: true, sorted: true };
const column = (title, key, show, about) => ({ title, of: (row) => row[key], show, about });
const words = (title, of, show) => ({ title, of, show, text: true });
const number = (value) => count(value);
const someRank = (value) => (value === null ? "–" : rankName(value));

function showTables() {
  table("ranks", counted(report.ranks.total, "rank"), report.ranks, [
    column("rank", "rank"),
    words("host", (row) => row.host),
    cost,
    column("was last", "times_last", (value, row) => `${count(value)} (${share(value, row.rounds)})`, "In how many of its rounds"),
    column("median lateness", "median_lateness_secs", secs),
    { ...column("99 % lateness", "p99_lateness_secs", secs, "In 99 % of its rounds it was not later than this"), bar: true },
    column("largest", "max_lateness_secs", secs, "Largest lateness"),
    column("waited itself", "waited_secs", secs),
    column("rounds", "rounds", number),
    column("pid", "pid", String, "Of its last life"),
  ], (line, row) => {
    line.dataset.rank = row.rank;
    if (row === worst) line.className = "worst";
  });
  table("hosts", counted(report.hosts.total, "host"), report.hosts, [
    words("host", (row) => row.host),
    words("ranks", (row) => row.ranks),
    cost,
    column("was last", "times_last", number),
    column("median lateness", "median_lateness_secs", secs),
    column("clock", "clock_offset_secs", secs, "Its clock minus the reference clock, at the end"),
  ], (line, row) => {
    line.dataset.host = row.host;
    if (worst && row === report.hosts[0] && report.hosts.length > 1) line.className = "worst";
  });
  table("tags", counted(report.tags.total, "tag"), report.tags, [
    words("tag", (row) => row.tag, (value) => value || "(no tag)"),
    cost,
    column("rounds", "rounds", number),
    column("failed", "failed", number),
    column("median spread", "median_spread_secs", secs),
    words("charged most", (row) => row.worst_rank, someRank),
  ]);
  table("tags", counted(report.barriers.total, "barrier"), report.barriers, [
    words("barrier", (row) => `${row.barrier_type} '${row.prefix}', generation ${row.generation}`),
    cost,
    column("ranks", "world_size", number),
    column("rounds", "rounds", number),
    column("failed", "failed", number),
  ]);
  table("clocks", "How well clocks could be aligned", report.clocks, [
    words("host", (row) => row.host),
    column("offset", "offset_secs", secs, "Its clock minus the reference clock"),
    column("drift", "drift_ppm", (value) => `${value === null ? "–" : value.toFixed(1).replace("-", "−")} ppm`, "Millionths by which it runs fast"),
    column("median error", "median_error_secs", secs),
    column("99 % error", "p99_error_secs", secs),
    column("rounds", "rounds", (value) => (value ? count(value) : "0: not aligned"), "Rounds that this rests on"),
  ]);
}

function failureArticle(failure) {
  const index = report.detail.findIndex((round) => round.barrier === failure.barrier && round.round === failure.round);
  const facts = [
    ["when", `${elapsed(failure.at)} (${moment(failure.at)})`],
    ["missing", failure.missing || "nobody"],
    ["raised on", failure.raised_on ? `ranks ${failure.raised_on}` : "no rank's trace says so"],
    ["decided by", failure.decided_by === null ? "unknown" : rankName(failure.decided_by)],
  ];
  const list = make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  const show = index < 0 ? null : make("button", { type: "button" }, "show in the timeline");
  show?.addEventListener("click", () => {
    choose(index);
    byId("one-round").scrollIntoView();
  });
  const title = make("h3", {}, `${roundName(failure)}: `.replace(/^r/, "R"), make("span", { class: "kind" }, failure.kind));
  return make("article", {}, title, make("pre", {}, failure.message), list, show);
}

function showFailures() {
  const section = byId("failures");
  const articles = report.failures.map(failureArticle);
  if (!report.failures.length) section.append(make("p", { class: "empty" }, "None."));
  section.append(...articles.slice(0, FIRST_ROWS));
  if (articles.length > FIRST_ROWS) {
    const more = make("button", { type: "button", class: "more-rows" }, `show all ${count(articles.length)}`);
    more.addEventListener("click", () => more.replaceWith(...articles.slice(FIRST_ROWS)));
    section.append(more);
  }
  const left = report.failures.total - report.failures.length;
  if (left) section.append(make("p", { class: "empty" }, `${count(left)} more are not shown.`));
}

function showNotes() {
  const notes = report.notes.map((note) => make("li", {}, note));
  byId("clocks").append(make("h3", {}, "Notes"), notes.length ? make("ul", { id: "notes" }, ...notes) : make("p", { class: "empty" }, "Nothing to note."));
}

// -- the start

function redraw() {
  redrawTimeline();
  drawTrend();
}

sayHeadline();
startTimeline();
startTrend();
showTables();
showFailures();
showNotes();
let width = innerWidth;
addEventListener("resize", () => {
  if (innerWidth !== width) redraw(); // on a phone, the height alone changes with every scroll
  width = innerWidth;
});
addEventListener("scroll", (event) => tell(event, null), { passive: true });
for (const query of ["print", "(prefers-color-scheme: dark)"]) matchMedia(query).addEventListener("change", redraw);
document.body.dataset.drawn = "yes";
