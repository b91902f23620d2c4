// The headline, tables, failures, notes; and the start of it all.

const span = Math.max(0, report.end - report.start);

/** Whether it is a host's ranks together that cost much, and none of them by itself. */
function hostIsToBlame() {
  const [host] = report.hosts;
  const much = Math.min(0.75, 2 / report.hosts.total) * report.cost_secs;
  return (
    worst !== null && report.hosts.total > 1 && host.cost_secs >= much && host.cost_secs > 2 * worst.cost_secs
  );
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
    headline.textContent =
      report.world_size === 1 ? "One rank alone, which waits for nobody" : "No rank was late";
  } else {
    const blamed = hostIsToBlame() ? host : worst;
    const name =
      blamed === host ? `Host ${host.host} (ranks ${host.ranks})` : rankName(worst.rank).replace(/^r/, "R");
    headline.replaceChildren(
      make("em", {}, name),
      ` was last in ${count(blamed.times_last)} of ${counted(report.rounds, "round")} and cost ${secs(blamed.cost_secs)} of rank time.`,
    );
    if (blamed === host) headline.dataset.host = host.host;
    else headline.dataset.rank = worst.rank;
  }
  const words = [];
  if (worst) {
    const part = (row) => share(row.cost_secs, report.cost_secs);
    const [tag] = report.tags;
    if (hostIsToBlame()) {
      words.push(
        `That is ${part(host)} of all that was lost. Costliest rank: ${rankName(worst.rank)}, ${part(worst)}.`,
      );
    } else {
      const usual = report.world_size > 3 && worst.cost_secs < (2 / report.world_size) * report.cost_secs;
      words.push(`That is ${part(worst)} of all that was lost${usual ? ": no rank stands out" : ""}.`);
      if (hosts > 1) words.push(`Costliest host: ${host.host} (ranks ${host.ranks}), ${part(host)}.`);
    }
    if (report.tags.length > 1)
      words.push(`Costliest tag: ${tag.tag ? `'${tag.tag}'` : "no tag"}, ${part(tag)}.`);
  }
  if (report.failed) words.push(`${counted(report.failed, "round")} failed.`);
  byId("subline").textContent = words.join(" ");

  const figure = (name, value, more, kind) =>
    make(
      "div",
      { class: kind },
      make("dt", {}, name),
      make("dd", { class: "value" }, value),
      make("dd", { class: "more" }, more),
    );
  byId("figures").append(
    figure("Length of the job", secs(span), report.rounds ? `until ${moment(report.end)}` : ""),
    figure("Ranks", count(report.world_size), `on ${counted(hosts, "host")}`),
    figure("Rounds", count(report.rounds), `of ${counted(report.barriers.total, "barrier")}`),
    figure(
      "Failed rounds",
      count(report.failed),
      report.rounds ? `${share(report.failed, report.rounds)} of all rounds` : "",
      report.failed ? "bad" : null,
    ),
    figure(
      "Rank time lost",
      secs(report.cost_secs),
      `waiting for the last rank: ${share(report.cost_secs, span * report.world_size)} of all ranks' time`,
      report.cost_secs > 0 ? "costly" : null,
    ),
  );
}

// -- tables

const cost = {
  title: "cost",
  about: "Rank time that others waited for it",
  of: (row) => row.cost_secs,
  show: secs,
  bar: true,
  sorted: true,
};
const column = (title, key, show, about) => ({ title, of: (row) => row[key], show, about });
const words = (title, of, show) => ({ title, of, show, text: true });
const number = (value) => count(value);
const someRank = (value) => (value === null ? "–" : rankName(value));

function showTables() {
  table(
    "ranks",
    counted(report.ranks.total, "rank"),
    report.ranks,
    [
      column("rank", "rank"),
      words("host", (row) => row.host),
      cost,
      column(
        "was last",
        "times_last",
        (value, row) => `${count(value)} (${share(value, row.rounds)})`,
        "In how many of its rounds",
      ),
      column("median lateness", "median_lateness_secs", secs),
      { ...column("99 % lateness", "p99_lateness_secs", secs, "In 99 % of its rounds not later"), bar: true },
      column("largest", "max_lateness_secs", secs, "Largest lateness"),
      column("waited itself", "waited_secs", secs),
      column("rounds", "rounds", number),
      column("pid", "pid", String, "Of its last process"),
    ],
    (line, row) => {
      line.dataset.rank = row.rank;
      if (row === worst) line.className = "worst";
    },
  );
  table(
    "hosts",
    counted(report.hosts.total, "host"),
    report.hosts,
    [
      words("host", (row) => row.host),
      words("ranks", (row) => row.ranks),
      cost,
      column("was last", "times_last", number),
      column("median lateness", "median_lateness_secs", secs),
      column("clock", "clock_offset_secs", secs, "Its clock minus the reference clock, at the end"),
    ],
    (line, row) => {
      line.dataset.host = row.host;
      if (worst && row === report.hosts[0] && report.hosts.length > 1) line.className = "worst";
    },
  );
  table("tags", counted(report.tags.total, "tag"), report.tags, [
    words(
      "tag",
      (row) => row.tag,
      (value) => value || "(no tag)",
    ),
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
    column(
      "drift",
      "drift_ppm",
      (value) => `${value === null ? "–" : value.toFixed(1).replace("-", "−")} ppm`,
      "Millionths by which it runs fast",
    ),
    column("median error", "median_error_secs", secs),
    column("99 % error", "p99_error_secs", secs),
    column(
      "rounds",
      "rounds",
      (value) => (value ? count(value) : "0: not aligned"),
      "Rounds that this rests on",
    ),
  ]);
}

function failureArticle(failure) {
  const index = report.detail.findIndex(
    (round) => round.barrier === failure.barrier && round.round === failure.round,
  );
  const facts = [
    ["when", `${elapsed(failure.at)} (${moment(failure.at)})`],
    ["missing", failure.missing || "none"],
    ["raised on", failure.raised_on ? `ranks ${failure.raised_on}` : "no rank's trace says so"],
    ["decided by", failure.decided_by === null ? "unknown" : rankName(failure.decided_by)],
  ];
  const list = make(
    "dl",
    {},
    ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]),
  );
  const show = index < 0 ? null : make("button", { type: "button" }, "show in the timeline");
  show?.addEventListener("click", () => {
    choose(index);
    byId("one-round").scrollIntoView();
  });
  const title = make(
    "h3",
    {},
    `${roundName(failure)}: `.replace(/^r/, "R"),
    make("span", { class: "kind" }, failure.kind),
  );
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
  byId("clocks").append(
    make("h3", {}, "Notes"),
    notes.length ? make("ul", { id: "notes" }, ...notes) : make("p", { class: "empty" }, "Nothing to note."),
  );
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
for (const query of ["print", "(prefers-color-scheme: dark)"])
  matchMedia(query).addEventListener("change", redraw);
document.body.dataset.drawn = "yes";
