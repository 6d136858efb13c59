"use strict";
(() => {
  const held = (id) => JSON.parse(document.getElementById(id).textContent);
  let details; // of the cells; a large run's take a while to be read, and nobody has asked yet
  const cells = () => (details ??= held("details"));
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (prefersDark.matches ? "dark" : "light")) === "dark";
  const theme = () => (isDark() ? "dark" : "light");

  // Everything a run says of itself becomes text, never markup.
  function element(tag, text, attributes = {}) {
    const made = document.createElement(tag);
    if (text !== undefined && text !== null) made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  }

  // Charts: drawn when they come near the view, and again in the other theme.
  const drawn = new Map();
  const options = { renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } };

  function draw(place, spec, then) {
    drawn.set(place, { spec, then });
    place.style.minHeight = `${place.offsetHeight}px`;
    return vegaEmbed(place, spec[theme()], options).then(({ view }) => {
      place.style.minHeight = "";
      place.dataset.drawn = theme();
      if (then) then(view);
    });
  }

  function redraw() {
    for (const [place, { spec, then }] of drawn) {
      if (place.isConnected) draw(place, spec, then);
      else drawn.delete(place);
    }
  }

  const places = [...document.querySelectorAll("[data-chart]")];
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      drawChart(entry.target);
    }
  }, { rootMargin: "400px" });
  for (const place of places) place.style.minHeight = "16rem";

  function drawChart(place) {
    const chart = held(`chart-${place.dataset.chart}`);
    const slider = document.querySelector(`[data-figure="${place.dataset.chart}"]`);
    return draw(place, chart, slider ? (view) => budget(slider, chart.points, view) : undefined);
  }

  // Which choice is best within a latency budget. The slider is logarithmic, as the chart is.
  function budget(slider, points, view) {
    const low = Math.min(...points.map((point) => point.ms)) / 1.02;
    const high = Math.max(...points.map((point) => point.ms)) * 1.02;
    const measured = points.some((point) => point.measured);
    const output = slider.parentElement.querySelector("output");
    function say() {
      const whole = slider.value === slider.max;
      const limit = low * (high / low) ** (Number(slider.value) / Number(slider.max));
      view.signal("budget", whole ? null : limit).run();
      // What was measured is compared with what was measured only.
      const within = points.filter((point) => point.ms <= limit && (point.measured || !measured));
      const best = within.sort((a, b) => b.top1 - a.top1 || a.ms - b.ms)[0];
      const range = whole ? "Without a budget" : `Within ${limit.toPrecision(3)} ms`;
      output.textContent = best
        ? `${range}: ${best.network} on ${best.backend}, ${best.accuracy}, ${best.median}`
        : `${range}: nothing is as fast`;
      slider.setAttribute("aria-valuetext", output.textContent);
    }
    slider.oninput = say;
    say();
  }

  const toggle = document.getElementById("theme");
  const label = () => { toggle.textContent = isDark() ? "Light" : "Dark"; };
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
    redraw();
  });
  prefersDark.addEventListener("change", () => { label(); redraw(); });
  label();

  // Tables: sorted by the first number of a cell, or by its text; what is missing comes last.
  const number = (text) => {
    const found = text.replace(/,/g, "").match(/[-−]?\d+(\.\d+)?(e[-+]?\d+)?/i);
    return found ? Number(found[0].replace("−", "-")) : null;
  };
  const SHOWN = 100; // rows at first, of a table that may have thousands
  const AT_ONCE = 40; // rows that a frame has the time to lay out; more than the table's window shows
  let filter = () => {};
  function sort(head, column) {
    const table = head.closest("table"), body = table.tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    const numeric = head.classList.contains("right") || head.style.textAlign === "right";
    const rows = [...body.rows].map((row) => {
      const text = row.cells[column].textContent;
      return { row, key: text.startsWith("–") ? null : numeric ? number(text) : text };
    });
    rows.sort((a, b) => {
      if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
      const order = numeric ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true });
      return up ? order : -order;
    });
    body.append(...rows.map(({ row }) => row));
    if (table.classList.contains("cells")) filter();
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
  }
  function tables() {
  for (const head of document.querySelectorAll("th")) {
    if (!head.firstElementChild) {
      const button = element("button", head.textContent, { type: "button" });
      head.replaceChildren(button);
    }
    head.addEventListener("click", () => sort(head, head.cellIndex));
  }

  const table = document.querySelector("table.cells");
  if (table) {
    const body = table.tBodies[0];
    const texts = new Map([...body.rows].map((row) => [row, row.textContent.toLowerCase()]));
    const search = document.getElementById("filter");
    const selects = [...document.querySelectorAll(".filters select")];
    const shown = document.getElementById("shown");
    const more = element("button", null, { type: "button", class: "more" });
    let most = SHOWN, waiting = 0;
    // Those that come into view first are shown at once, the others in the frames after it.
    const reveal = (rows, atOnce) => {
      let hidden = atOnce;
      for (const row of rows) {
        if (!row.hidden) continue;
        if (hidden-- === 0) {
          waiting = requestAnimationFrame(() => reveal(rows, atOnce));
          return;
        }
        row.hidden = false;
      }
    };
    filter = (atOnce = AT_ONCE) => {
      cancelAnimationFrame(waiting);
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const shows = new Set();
      let count = 0;
      for (const row of body.rows) {
        const text = texts.get(row);
        const fits = words.every((word) => text.includes(word))
          && selects.every((select) => !select.value || row.dataset[select.dataset.column] === select.value);
        count += fits;
        if (fits && count <= most) shows.add(row);
        else if (!row.hidden) row.hidden = true;
      }
      reveal(shows, atOnce);
      shown.textContent = `${count} of ${texts.size} cells`;
      more.hidden = count <= most;
      more.textContent = `The first ${most} are shown; show all ${count}`;
    };
    more.addEventListener("click", () => { most = Infinity; filter(); });
    addEventListener("beforeprint", () => { most = Infinity; filter(Infinity); });
    search.addEventListener("input", () => filter());
    for (const select of selects) select.addEventListener("change", () => filter());
    filter();
    for (const row of body.rows) {
      const name = row.querySelector("code");
      const link = element("a", null, { href: `#cell-${row.dataset.cell}` });
      name.replaceWith(link);
      link.append(name);
    }
    addEventListener("hashchange", open);
    open();
  }
  }

  // What a reader sees first comes first: this runs before the tables are read, and draws the first chart; two frames
  // later it can be seen, and the rest follows.
  const [first, ...others] = places;
  const frames = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done))));
  const read = new Promise((done) => document.addEventListener("DOMContentLoaded", done));
  Promise.all([first ? drawChart(first).catch(console.error).then(frames) : null, read]).then(() => {
    tables();
    for (const place of others) near.observe(place);
  });

  // One cell's own figures.
  function open() {
    const found = location.hash.match(/^#cell-(\d+)$/);
    const cell = found && cells()[Number(found[1])];
    for (const row of document.querySelectorAll("tr.chosen")) row.classList.remove("chosen");
    const place = document.getElementById("cell");
    place.hidden = !cell;
    place.replaceChildren();
    if (!cell) return;
    document.querySelector(`tr[data-cell="${found[1]}"]`).classList.add("chosen");
    place.append(element("h2", cell.title, { tabindex: "-1" }), element("p", cell.setting));
    const facts = [["cell", cell.key]];
    if (cell.median) {
      facts.push(["median [95 %]", cell.median], ["epochs", cell.epochs], ["calls", cell.calls], ["disturbed turns", cell.disturbed]);
    } else {
      facts.push(["not timed", cell.why]);
    }
    place.append(list(facts));
    if (cell.failure) place.append(...failure(cell.failure));
    if (cell.blocks.length) {
      const chart = element("div", null, { class: "chart", id: "turns" });
      place.append(chart);
      draw(chart, { light: turns(cell, "light"), dark: turns(cell, "dark") });
    }
    if (cell.operators.length) place.append(element("h3", "Where the time goes"), element("p", `By ${cell.by}.`), profile(cell.operators));
    if (cell.layers.length) place.append(element("h3", "Operators, in the order they run"), layers(cell.layers));
    for (const reason of cell.reasons) place.append(element("p", `${reason}.`));
    if (Object.keys(cell.facts).length) place.append(element("h3", "What the backend says it did"), list(Object.entries(cell.facts)));
    place.scrollIntoView({ block: "start" });
    place.querySelector("h2").focus({ preventScroll: true });
  }

  function list(pairs) {
    const made = element("dl");
    for (const [name, value] of pairs) made.append(element("dt", name), element("dd", value));
    return made;
  }

  function failure({ phase, reason, install, tail }) {
    const made = [element("p", `Failed (${phase}): ${reason}`, { class: "notice" })];
    if (install) made.push(element("p", `To mend it: ${install}`));
    if (tail) made.push(element("pre", tail));
    return made;
  }

  function turns(cell, which) {
    const spec = held("turns-chart")[which];
    spec.data = { values: cell.blocks.map(([turn, epoch, low, median, high, calls, disturbed]) => (
      { turn: turn + 1, epoch, low, median, high, calls, disturbed: disturbed || "no", state: disturbed ? "disturbed" : "undisturbed" })) };
    return spec;
  }

  function profile(operators) {
    const total = operators.reduce((sum, [, , seconds]) => sum + (seconds || 0), 0);
    const headings = [["operator", "left"], ["count", "right"], ["share of profiled time", "right"], ["", "left"], ["precision", "left"]];
    return sortable(headings, operators.map(([name, count, seconds, precision]) => {
      const share = seconds !== null && total > 0 ? seconds / total : null;
      return [name, count, percent(share), bar(share), precision || "not told"];
    }));
  }

  function layers(operators) {
    const headings = [["place", "right"], ["operator", "left"], ["module", "left"], ["kind", "left"], ["µs", "right"],
      ["share of the call", "right"], ["", "left"], ["also computes", "left"]];
    return sortable(headings, operators.map(([operation, module, kind, micros, share, contains], place) => (
      [place + 1, operation, module || "not told", kind, micros, percent(share), bar(share), contains || "–"])));
  }

  function percent(share) {
    return share === null ? "–" : `${(100 * share).toFixed(1)} %`;
  }

  function bar(share) {
    return share === null ? "" : element("span", null, { class: "share", style: `width:${(100 * Math.min(1, share)).toFixed(1)}px` });
  }

  function sortable(headings, rows) {
    const made = element("table", null, { class: "sortable" });
    const head = made.createTHead().insertRow();
    for (const [title, align] of headings) {
      const cell = element("th", null, { scope: "col", class: align });
      cell.append(element("button", title, { type: "button" }));
      cell.addEventListener("click", () => sort(cell, cell.cellIndex));
      head.append(cell);
    }
    const body = made.createTBody();
    for (const values of rows) {
      const row = body.insertRow();
      values.forEach((value, place) => {
        const cell = element("td", null, { class: headings[place][1] });
        cell.append(value);
        row.append(cell);
      });
    }
    const wide = element("div", null, { class: "wide" });
    wide.append(made);
    return wide;
  }

  // On paper everything is open and drawn.
  addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll(".part details")) part.open = true;
    for (const place of places) if (!drawn.has(place)) drawChart(place);
  });
})();
