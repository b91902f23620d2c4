"use strict";
// The report's data, and what every part of the page needs: words, elements, a tooltip, tables.
// Text from the traces goes into the page through textContent only.

const report = JSON.parse(document.getElementById("data").textContent);
for (const name of ["ranks", "hosts", "tags", "barriers", "failures", "clocks", "trend"]) {
  const { columns, rows, total } = report[name];
  report[name] = rows.map((row) => Object.fromEntries(columns.map((key, i) => [key, row[i]])));
  report[name].total = total;
}
const rankOf = new Map(report.ranks.map((rank) => [rank.rank, rank]));
// The costliest rank, if any rank has cost anything.
const worst = report.ranks.length && report.ranks[0].cost_secs > 0 ? report.ranks[0] : null;

// -- words

const byId = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en-US");
const counted = (number, one) => `${count(number)} ${one}${number === 1 ? "" : "s"}`;
const share = (part, whole) => {
  const percent = whole > 0 ? (100 * part) / whole : 0;
  return `${percent > 0 && percent < 10 ? Number(percent.toPrecision(2)) : Math.round(percent)}\u00a0%`;
};

/** A length of time, for people: 350 µs, 5.2 s, 1 h 12 min. */
function secs(value) {
  if (value === null || value === undefined) return "–";
  if (value < 0) return `−${secs(-value)}`;
  const short = (number) => String(Number(number.toPrecision(number < 100 ? 2 : 3)));
  if (value === 0) return "0 s";
  if (value < 0.9995e-3) return `${short(value * 1e6)} µs`;
  if (value < 0.9995) return `${short(value * 1e3)} ms`;
  if (value < 59.95) return `${short(Number(value.toPrecision(value < 10 ? 2 : 3)))} s`;
  const whole = Math.round(value);
  const two = (big, bigName, small, smallName) =>
    small ? `${count(big)} ${bigName} ${small} ${smallName}` : `${count(big)} ${bigName}`;
  if (whole < 3600) return two(Math.floor(whole / 60), "min", whole % 60, "s");
  const minutes = Math.round(value / 60);
  if (minutes < 1440) return two(Math.floor(minutes / 60), "h", minutes % 60, "min");
  const hours = Math.round(value / 3600);
  return two(Math.floor(hours / 24), "d", hours % 24, "h");
}

/** A moment in UTC, from Unix time. */
const moment = (unix) => {
  const date = new Date(unix * 1000);
  return Number.isNaN(date.getTime()) ? "–" : `${date.toISOString().slice(0, 19).replace("T", " ")} UTC`;
};
const elapsed = (unix) => `${secs(Math.max(0, unix - report.start))} after the start`;
const hostOf = (rank) => (rankOf.has(rank) ? rankOf.get(rank).host : null);
const rankName = (rank) => (hostOf(rank) ? `rank ${rank} on ${hostOf(rank)}` : `rank ${rank}`);
const roundName = (round) => `round ${count(round.round)}${round.tag ? ` '${round.tag}'` : ""}`;

// -- elements

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}
const make = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
const SVG = document.querySelector("svg").namespaceURI;
const draw = (name, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, name), attributes, children);
const line = (x1, y1, x2, y2, kind) => draw("line", { x1, y1, x2, y2, class: kind });
const box = (x, y, width, height, kind) =>
  draw("rect", { x, y, width: Math.max(0, width), height, class: kind });
const label = (x, y, text, anchor = "start", kind = null) =>
  draw("text", { x, y, "text-anchor": anchor, class: kind }, text);

/** A mark as it is explained in a legend. */
const sample = (...children) => draw("svg", { viewBox: "0 0 26 12", "aria-hidden": "true" }, ...children);

/** Set an SVG's size in pixels and empty it. */
function blank(svg, width, height) {
  svg.replaceChildren();
  fill(svg, { width, height, viewBox: `0 0 ${width} ${height}` }, []);
}

const LONG_STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/** Round values between two, at most about so many; of seconds, unless they only count something. */
function ticks(low, high, most, ofTime = true) {
  const least = (high - low) / Math.max(1, most);
  if (!(least > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(least));
  let step = [1, 2, 5, 10].map((digit) => digit * power).find((value) => value >= least * 0.999);
  if (ofTime && step > 30)
    step = LONG_STEPS.find((value) => value >= least) || Math.ceil(least / 86400) * 86400;
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

// -- the tooltip

const tip = byId("tip");

/** Say something beside the pointer: a heading and lines; nothing hides it. */
function tell(event, lines) {
  tip.hidden = !lines;
  if (!lines) return;
  const [first, ...more] = lines.filter((text) => text);
  tip.replaceChildren(make("b", {}, first), ...more.map((text) => make("span", {}, text)));
  const left =
    event.clientX + 14 + tip.offsetWidth > innerWidth
      ? event.clientX - 14 - tip.offsetWidth
      : event.clientX + 14;
  const top = Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 4);
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

/** Show what `describe` returns for the point under the pointer. */
function tellOn(element, describe) {
  element.addEventListener("pointermove", (event) => tell(event, describe(event)));
  element.addEventListener("pointerleave", (event) => tell(event, null));
}

// -- tables

const FIRST_ROWS = 12;

/**
 * A table that is sorted by a click on a heading; of a long one the first rows, until asked.
 * A column has a title, `of` (a row's value), and may have `show` (its text), `about` (what the
 * heading means), `bar` (draw it as a bar, too), `text` (left-aligned) and `sorted` (rows come so).
 */
function table(section, caption, rows, columns, markRow = () => {}) {
  if (!rows.length) {
    byId(section).append(make("p", { class: "empty" }, "None."));
    return;
  }
  const limits = columns.map((column) => (column.bar ? Math.max(...rows.map(column.of)) : 0));
  const left = rows.total > rows.length ? `, ${count(rows.length)} of them listed` : "";
  const body = make("tbody");
  const head = make("tr");
  const more = make("button", { type: "button", class: "more-rows" });
  let sorted = [...rows];
  let shown = FIRST_ROWS;

  const cell = (column, row, i) => {
    const value = column.of(row);
    const text = column.show ? column.show(value, row) : String(value ?? "–");
    if (!i) return make("th", { scope: "row" }, text);
    if (!column.bar) return make("td", { class: column.text ? "text" : "number" }, text);
    const bar = make("i");
    bar.style.width = `${limits[i] > 0 ? (100 * value) / limits[i] : 0}%`;
    return make(
      "td",
      { class: "number" },
      make("div", { class: "bar-cell" }, make("span", { class: "bar" }, bar), text),
    );
  };
  const fillBody = () => {
    body.replaceChildren(
      ...sorted.slice(0, shown).map((row) => {
        const line = make("tr", {}, ...columns.map((column, i) => cell(column, row, i)));
        markRow(line, row);
        return line;
      }),
    );
    more.hidden = shown >= rows.length;
    more.textContent = `show all ${count(rows.length)}`;
  };
  const sortBy = (column, heading) => {
    const down = heading.getAttribute("aria-sort") !== "descending";
    for (const other of head.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => column.of(row) ?? -Infinity;
    const order = (a, b) =>
      typeof key(a) === "string"
        ? String(key(a)).localeCompare(String(key(b)), "en", { numeric: true })
        : key(a) - key(b);
    sorted = [...rows].sort((a, b) => (down ? order(b, a) : order(a, b)));
    fillBody();
  };
  columns.forEach((column, i) => {
    const button = make(
      "button",
      { type: "button", title: column.about || `Sort by ${column.title}` },
      column.title,
    );
    const heading = make(
      "th",
      {
        scope: "col",
        class: column.text || !i ? null : "number",
        "aria-sort": column.sorted ? "descending" : null,
      },
      button,
    );
    button.addEventListener("click", () => sortBy(column, heading));
    head.append(heading);
  });
  more.addEventListener("click", () => {
    shown = rows.length;
    fillBody();
  });
  fillBody();
  byId(section).append(
    make(
      "div",
      { class: "table-box" },
      make("table", {}, make("caption", {}, caption + left), make("thead", {}, head), body),
    ),
    more,
  );
}
