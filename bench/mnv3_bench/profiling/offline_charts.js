// Stands in for what the profiler plugin's page uses of Google Charts: plain bars, lines and tables. Text is never HTML.
(() => {
  "use strict";
  const COLORS = ["#3366cc", "#dc3912", "#ff9900", "#109618", "#990099", "#0099c6", "#dd4477", "#66aa00"];
  const SVG = "http://www.w3.org/2000/svg";
  const MOST_ROWS = 200;

  class DataTable {
    constructor() { this.columns = []; this.rows = []; }
    addColumn(column, label) { this.columns.push(typeof column === "object" ? column : { type: column, label }); }
    addRow(row) { this.rows.push(row); }
    addRows(rows) { this.rows.push(...rows); }
    setProperty() {}
  }

  function arrayToDataTable(rows) {
    const table = new DataTable();
    for (const head of rows[0] ?? []) table.addColumn(typeof head === "object" ? head : { label: head });
    table.addRows(rows.slice(1));
    return table;
  }

  function element(name, text, style) {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (style) made.style.cssText = style;
    return made;
  }

  const shown = value => typeof value === "number" ? +value.toFixed(3) : value ?? "";
  const visible = table => table.columns.map((column, place) => ({ ...column, place })).filter(each => !each.role);

  class Chart {
    constructor(host) { this.host = host; }
    draw(table, options) {
      this.clearChart();
      if (options?.title) this.host.append(element("div", options.title, "font-weight:bold;margin:8px 0"));
      const box = element("div", undefined, `overflow:auto;max-height:${options?.height ?? 400}px;font-size:12px`);
      box.append(this.picture(table));
      this.host.append(box);
    }
    clearChart() { this.host.replaceChildren(); }
    getSelection() { return []; }
    setSelection() {}
  }

  class Table extends Chart {
    picture(table) {
      const columns = visible(table);
      const made = element("table", undefined, "border-collapse:collapse;width:100%");
      const rows = [columns.map(column => column.label), ...table.rows.map(row => columns.map(each => row[each.place]))];
      rows.forEach((row, number) => {
        const line = made.insertRow();
        for (const value of row) {
          line.append(element(number ? "td" : "th", shown(value), "border:1px solid #e0e0e0;padding:4px;text-align:left"));
        }
      });
      return made;
    }
  }

  class Bars extends Chart {
    picture(table) {
      const [first, ...series] = visible(table);
      const sums = table.rows.map(row => series.reduce((sum, each) => sum + (Number(row[each.place]) || 0), 0));
      const [most, all] = [Math.max(...sums, 0), sums.reduce((sum, each) => sum + each, 0)];
      const made = element("div");
      if (series.length > 1) {
        const legend = element("div", undefined, "margin-bottom:6px");
        series.forEach((each, number) => {
          legend.append(element("span", `■ ${each.label}  `, `color:${COLORS[number % COLORS.length]};white-space:pre`));
        });
        made.append(legend);
      }
      table.rows.slice(0, MOST_ROWS).forEach((row, number) => {
        const share = all ? (100 * sums[number] / all).toFixed(1) : "0";
        made.append(element("div", `${shown(row[first.place])}: ${shown(sums[number])} (${share} %)`));
        const bar = element("div", undefined, "display:flex;height:8px;margin-bottom:4px");
        series.forEach((each, place) => {
          const width = most ? 100 * (Number(row[each.place]) || 0) / most : 0;
          bar.append(element("div", undefined, `width:${width}%;background:${COLORS[place % COLORS.length]}`));
        });
        made.append(bar);
      });
      if (table.rows.length > MOST_ROWS) made.append(element("div", `${table.rows.length - MOST_ROWS} more`));
      return made;
    }
  }

  class Lines extends Chart {
    picture(table) {
      const [first, ...series] = visible(table);
      const numbers = place => table.rows.map(row => Number(row[place]) || 0);
      const across = numbers(first.place);
      const [left, right] = [Math.min(...across), Math.max(...across)];
      const top = Math.max(0, ...series.flatMap(each => numbers(each.place)));
      const made = document.createElementNS(SVG, "svg");
      made.setAttribute("viewBox", "0 0 1000 300");
      const write = (text, x, y, color) => {
        const label = document.createElementNS(SVG, "text");
        for (const [name, value] of Object.entries({ x, y, fill: color })) label.setAttribute(name, value);
        label.textContent = text;
        made.append(label);
      };
      series.forEach((each, number) => {
        const line = document.createElementNS(SVG, "polyline");
        const points = numbers(each.place).map((value, row) =>
          `${1000 * (across[row] - left) / (right - left || 1)},${270 - 240 * value / (top || 1)}`);
        const color = COLORS[number % COLORS.length];
        for (const [name, value] of Object.entries({ points: points.join(" "), fill: "none", stroke: color })) {
          line.setAttribute(name, value);
        }
        made.append(line);
        write(each.label, 10 + 200 * number, 295, color);
      });
      write(`at most ${shown(top)}`, 800, 20, "#666");
      return made;
    }
  }

  class Timeline extends Chart {
    picture(table) {
      const [left, right] = [Math.min(...table.rows.map(row => row[3])), Math.max(...table.rows.map(row => row[4]))];
      const made = element("div", undefined, "position:relative");
      const levels = Math.max(...table.rows.map(row => Number(row[0]))) + 1;
      made.style.height = `${24 * levels}px`;
      for (const [level, name, tooltip, start, end] of table.rows) {
        const [from, width] = [100 * (start - left) / (right - left || 1), 100 * (end - start) / (right - left || 1)];
        const bar = element("div", name, `position:absolute;left:${from}%;width:${width}%;top:${24 * level}px;height:20px;`
          + `overflow:hidden;white-space:nowrap;color:#fff;background:${COLORS[level % COLORS.length]}`);
        bar.title = tooltip;
        made.append(bar);
      }
      return made;
    }
  }

  window.google = {
    charts: { load: () => Promise.resolve() },
    visualization: {
      DataTable, arrayToDataTable, Table, Timeline, PieChart: Bars, ColumnChart: Bars, ComboChart: Bars,
      SteppedAreaChart: Bars, LineChart: Lines, events: { addListener: () => {} },
    },
  };
})();
