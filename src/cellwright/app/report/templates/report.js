"use strict";
// Everything is drawn from the JSON in #data; text from it only ever becomes text, never markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const redraws = [];
  const css = (name) => getComputedStyle(root).getPropertyValue(name).trim();
  const ink = (entry) => css(`--ink-${data.models[entry].ink}`);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const readout = (name, text) => {
    document.querySelector(`[data-readout="${name}"]`).textContent = text || "\u00a0";
  };
  const number = (value) => value === null || value === undefined ? "–"
    : Number(value.toPrecision(4)).toLocaleString("en", { maximumSignificantDigits: 4 }).replace("-", "−");
  const element = (tag, text, attributes = {}) => {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    return made;
  };
  const translucent = (colour, alpha) => {
    const [r, g, b] = rgb(colour);
    return `rgba(${r}, ${g}, ${b}, ${alpha})`;
  };
  const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

  const chosen = (group, change) => {
    const inputs = all(`input[name="${group}"]`);
    inputs.forEach((input) => input.addEventListener("change", () => change(Number(input.value))));
    const start = inputs.find((input) => input.checked);
    if (start) change(Number(start.value));
  };

  // What a tick says, by the seconds between ticks: each, then where a year or a day begins.
  const DATES = [
    [31536000, "{YYYY}", null, null, null, null, null, null, 1],
    [2419200, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
    [86400, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
    [60, "{HH}:{mm}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
    [0.001, "{HH}:{mm}:{ss}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
  ];
  const axes = (time, log) => {
    const style = { stroke: css("--soft"), font: "12px system-ui, sans-serif", grid: { stroke: css("--rule"), width: 1 }, ticks: { show: false } };
    const x = { ...style, grid: { show: false }, space: 60, size: time ? 48 : 30 };
    if (time) x.values = DATES;
    else x.incrs = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000];
    const size = (u, values) => 14 + 7 * Math.max(2, ...(values || []).map((text) => String(text ?? "").length));
    const y = { ...style, size, values: (u, splits) => splits.map((v) => v === null ? "" : number(v)) };
    if (log) y.grid = { ...style.grid, filter: (u, splits) => splits.map((v) => Number.isInteger(Math.log10(v)) ? v : null) };
    return [x, y];
  };
  const fit = (place, plot) => new ResizeObserver(() => {
    const { clientWidth: width, clientHeight: height } = place;
    if (width && height) plot().setSize({ width, height });
  }).observe(place);

  // A logarithmic axis counts its lines from its lower end, which so must be a round number.
  const wholeUnits = (value) => {
    const unit = 10 ** Math.floor(Math.log10(value));
    return Math.floor(value / unit) * unit;
  };
  // Learning curves: colour is the network, dashes tell the fourth and later apart once more.
  const dashes = (entry) => [[], [], [], [6, 4], [2, 3], [10, 4, 2, 4], [12, 5]][data.models[entry].ink] || [];
  const curves = (place, index) => {
    const chart = data.curves[index];
    const numbers = chart.series.flatMap((one) => one.values).filter((value) => value !== null);
    const log = numbers.every((value) => value > 0) && Math.max(...numbers) > 20 * Math.min(...numbers);
    let plot;
    const tell = (u) => {
      const at = u.cursor.idx ?? chart.epochs.length - 1;
      const means = new Map();
      chart.series.forEach((one, k) => {
        if (u.series[k + 1].show && one.values[at] !== null) means.set(one.entry, [...(means.get(one.entry) || []), one.values[at]]);
      });
      const words = [...means].map(([entry, held]) => `${data.models[entry].label} ${number(held.reduce((a, b) => a + b) / held.length)}`);
      readout(`curves-${index}`, words.length ? `Epoch ${chart.epochs[at]}, mean over seeds: ${words.join(", ")}` : "");
    };
    const draw = () => {
      const shown = new Set(all('[data-toggle="learning"]').filter((box) => box.checked).map((box) => Number(box.value)));
      if (plot) plot.destroy();
      plot = new uPlot({
        width: place.clientWidth, height: place.clientHeight, legend: { show: false },
        scales: { x: { time: false }, y: log ? { distr: 3, range: (u, low, high) => [wholeUnits(low), 1.2 * high] } : {} },
        axes: axes(false, log),
        cursor: { y: false, points: { size: 6 }, focus: { prox: 24 } }, focus: { alpha: 0.25 },
        hooks: { setCursor: [tell] },
        series: [{}, ...chart.series.map((one) => ({
          stroke: ink(one.entry), width: 1.6, dash: dashes(one.entry), points: { show: chart.epochs.length < 2 },
          show: shown.has(one.entry), label: `${data.models[one.entry].label}, seed ${one.seed}`,
        }))],
      }, [chart.epochs, ...chart.series.map((one) => one.values)], place);
      tell(plot);
    };
    draw();
    redraws.push(draw);
    fit(place, () => plot);
    all('[data-toggle="learning"]').forEach((box) => box.addEventListener("change", () => {
      chart.series.forEach((one, k) => { if (one.entry === Number(box.value)) plot.setSeries(k + 1, { show: box.checked }); });
      tell(plot);
    }));
  };

  // Confusion matrix: a table as long as its numbers can be read, else a picture.
  const confusion = (place) => {
    const { classes, entries } = data.confusion;
    const sums = (counts) => counts.map((row) => row.reduce((a, b) => a + b, 0));
    const words = (counts) => {
      const pairs = counts.flatMap((row, t) => row.map((count, p) => [count, t, p])).filter(([count, t, p]) => count && t !== p);
      pairs.sort((a, b) => b[0] - a[0]);
      const worst = pairs.slice(0, 3).map(([count, t, p]) => `${classes[t]} as ${classes[p]} (${count})`);
      return worst.length ? `Most often mistaken: ${worst.join(", ")}.` : "Not one mistake.";
    };
    const table = (counts) => {
      const made = element("table", undefined, { class: "confusion" });
      made.append(element("caption", "Counts of true and given classes"));
      const head = element("tr");
      head.append(element("td", "true ↓ given →", { class: "corner", style: "background: none" }));
      classes.forEach((name) => head.append(element("th", name, { scope: "col", title: name })));
      made.createTHead().append(head);
      const body = made.createTBody();
      const totals = sums(counts);
      counts.forEach((row, t) => {
        const line = element("tr");
        line.append(element("th", classes[t], { scope: "row", title: classes[t] }));
        row.forEach((count, p) => {
          const share = totals[t] ? count / totals[t] : 0;
          const kind = count === 0 ? "zero" : share > 0.5 ? "full" : "";
          line.append(element("td", count, {
            class: kind, title: `${classes[t]} given as ${classes[p]}: ${count}`,
            style: `--tone: var(--${t === p ? "hit" : "miss"}); --share: ${count ? 12 + 88 * share : 0}%`,
          }));
        });
        body.append(line);
      });
      return made;
    };
    const picture = (counts) => {
      const made = element("canvas", undefined, { class: "confusion-map", width: classes.length, height: classes.length, role: "img", "aria-label": "Confusion matrix" });
      const totals = sums(counts);
      const context = made.getContext("2d");
      const tones = { hit: css("--hit"), miss: css("--miss") };
      counts.forEach((row, t) => row.forEach((count, p) => {
        if (!count) return;
        context.fillStyle = translucent(t === p ? tones.hit : tones.miss, 0.15 + 0.85 * count / totals[t]);
        context.fillRect(p, t, 1, 1);
      }));
      return made;
    };
    const show = (entry) => {
      const { counts } = entries.find((one) => one.entry === entry);
      place.replaceChildren(classes.length <= 30 ? table(counts) : picture(counts));
      document.getElementById("confusion-words").textContent = words(counts);
    };
    let current;
    chosen("confusion", (entry) => { current = entry; show(entry); });
    redraws.push(() => show(current));
  };

  const forecast = (place) => {
    const { views, ahead } = data.forecasts;
    const viewBox = document.getElementById("view"), aheadBox = document.getElementById("ahead");
    views.forEach((view, k) => viewBox.append(element("option", view.name, { value: k })));
    ahead.forEach((steps, k) => aheadBox.append(element("option", steps, { value: k })));
    document.getElementById("view-label").hidden = views.length < 2;
    document.getElementById("ahead-label").hidden = ahead.length < 2;
    let plot, entry, range;
    const view = () => views[Number(viewBox.value)];
    const rows = () => view().entries.find((one) => one.entry === entry).ahead[Number(aheadBox.value)];
    const day = (x) => !view().time ? `Step ${x}` : new Date(x * 1000).toISOString().slice(0, 16).replace("T", " ").replace(" 00:00", "");
    const tell = (u) => {
      const at = u.cursor.idx;
      if (at === null || at === undefined) return readout("forecast", "Point at the plot to read it; drag over a part to see it large.");
      const [low, middle, high] = rows().map((row) => row[at]);
      const band = low === null ? "" : `, 10–90 %: ${number(low)} to ${number(high)}`;
      readout("forecast", `${day(view().x[at])}: true ${number(view().truth[at])}, ${data.models[entry].label} ${number(middle)}${band}`);
    };
    const coverage = () => {
      const [low, , high] = rows();
      const held = view().truth.map((value, k) => value === null || low[k] === null ? null : low[k] <= value && value <= high[k]).filter((one) => one !== null);
      document.getElementById("coverage").textContent = held.length
        ? `Here ${Math.round(100 * held.filter(Boolean).length / held.length)} % do.` : "This model gives no interval.";
    };
    const bounds = () => [view().x[0], view().x[view().x.length - 1]];
    const zoom = (low, high) => {
      const [first, last] = bounds();
      const width = Math.min(high - low, last - first);
      const start = Math.min(Math.max(low, first), last - width);
      range = [start, start + width];
      plot.setScale("x", { min: range[0], max: range[1] });
    };
    const act = (what) => {
      const { min, max } = plot.scales.x;
      const width = max - min, [first, last] = bounds();
      if (what === "in") zoom(min + width / 4, max - width / 4);
      if (what === "out") zoom(min - width / 2, max + width / 2);
      if (what === "left") zoom(min - width / 2, max - width / 2);
      if (what === "right") zoom(min + width / 2, max + width / 2);
      if (what === "all") zoom(first, last);
    };
    const draw = () => {
      if (plot) plot.destroy();
      const colour = ink(entry), [low, middle, high] = rows();
      plot = new uPlot({
        width: place.clientWidth, height: place.clientHeight, legend: { show: false },
        tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
        scales: { x: { time: view().time } },
        axes: axes(view().time), cursor: { y: false, points: { size: 6 } },
        hooks: { setCursor: [tell], setScale: [(u, key) => { if (key === "x" && u === plot) range = [u.scales.x.min, u.scales.x.max]; }] },
        bands: [{ series: [2, 1], fill: translucent(colour, dark.matches ? 0.3 : 0.2) }],
        series: [{},
          { stroke: translucent(colour, 0.35), width: 1, points: { show: false } },
          { stroke: translucent(colour, 0.35), width: 1, points: { show: false } },
          { stroke: colour, width: 2, points: { show: false } },
          { stroke: css("--truth"), width: 1.2, points: { show: (u, series, first, last) => last - first < u.bbox.width / devicePixelRatio / 5, size: 3.5, fill: css("--truth") } }],
      }, [view().x, low, high, middle, view().truth], place);
      plot.setScale("x", { min: range[0], max: range[1] });
      tell(plot);
      coverage();
      document.getElementById("forecast-note").textContent = view().cut > 0
        ? `To keep this file small, the first ${view().cut} steps are left out.` : "";
    };
    // At first only as many steps at the end as can be told apart.
    const fresh = () => {
      const { x } = view();
      range = [x[Math.max(0, x.length - Math.max(30, Math.round(place.clientWidth / 8)))], x[x.length - 1]];
      draw();
    };
    chosen("forecast", (value) => { entry = value; if (range) draw(); else fresh(); });
    viewBox.addEventListener("change", fresh);
    aheadBox.addEventListener("change", draw);
    all("[data-zoom]").forEach((button) => button.addEventListener("click", () => act(button.dataset.zoom)));
    place.addEventListener("keydown", (event) => {
      const what = { "+": "in", "=": "in", "-": "out", ArrowLeft: "left", ArrowRight: "right", 0: "all" }[event.key];
      if (what) { act(what); event.preventDefault(); }
    });
    redraws.push(draw);
    fit(place, () => plot);
  };

  const surprise = (place) => {
    const { characters, entries } = data.surprises;
    const shown = { "\n": "↵", "\t": "⇥", " ": "space" };
    let bits;
    chosen("surprise", (entry) => {
      bits = entries.find((one) => one.entry === entry).bits;
      place.replaceChildren(...characters.map((character, k) => element("span", character, { style: `--bits: ${Math.min(85, 9 * bits[k])}%` })));
      readout("surprise", "Point at a character.");
    });
    const tell = (event) => {
      const at = [...place.children].indexOf(event.target);
      if (at >= 0) readout("surprise", `${shown[characters[at]] || characters[at]}: ${bits[at]} bits`);
    };
    for (const kind of ["pointermove", "pointerdown"]) place.addEventListener(kind, tell);
  };

  // Heat maps. Byte 0 is "not a number" and stays clear; 1 to 255 run from low to high.
  const CIVIDIS = ["#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838"];
  const ramp = (stops) => Array.from({ length: 256 }, (_, byte) => {
    const place = Math.max(0, byte - 1) / 254 * (stops.length - 1), left = Math.min(Math.floor(place), stops.length - 2);
    const [from, to] = [stops[left], stops[left + 1]].map(rgb);
    return from.map((value, k) => Math.round(value + (to[k] - value) * (place - left)));
  });
  const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const maps = all("[data-map]").map((place) => {
    const panel = data.maps[place.dataset.map];
    return { place, panel, bytes: bytes(panel.data), canvas: place.firstElementChild, cross: place.lastElementChild };
  });
  const paint = () => {
    const ramps = [ramp([css("--low"), css("--zero"), css("--high")]), ramp(CIVIDIS)];
    maps.forEach(({ panel, canvas, bytes: held }) => {
      const context = canvas.getContext("2d");
      const image = context.createImageData(panel.steps, panel.rows);
      const colours = ramps[panel.gate ? 1 : 0];
      held.forEach((byte, k) => image.data.set(byte ? [...colours[byte], 255] : [0, 0, 0, 0], 4 * k));
      context.putImageData(image, 0, 0);
    });
  };
  const point = (map, step, row) => {
    const { panel } = map;
    map.at = [step, row];
    const byte = map.bytes[row * panel.steps + step];
    const value = byte ? number(panel.low + (byte - 1) / 254 * (panel.high - panel.low)) : "not a number";
    const where = map.place.dataset.map === "input" ? data.inside.columns[row] : `unit ${panel.order[row]}`;
    const mark = data.inside.marks[step], moment = data.inside.text ? `after “${mark === "\n" ? "↵" : mark}”` : `at ${mark}`;
    readout("inside", `${panel.name} of ${where} ${moment}: ${value}`);
    maps.forEach(({ cross, panel: other }) => {
      cross.style.display = "block";
      cross.style.left = `${100 * (step + 0.5) / other.steps}%`;
    });
  };
  const within = (value, size) => Math.min(size - 1, Math.max(0, value));
  const inside = () => {
    paint();
    redraws.push(paint);
    maps.forEach((map) => {
      const { place, panel } = map;
      const track = (event) => {
        const box = place.getBoundingClientRect();
        const part = (at, size, cells) => within(Math.floor(at / size * cells), cells);
        point(map, part(event.clientX - box.left, box.width, panel.steps), part(event.clientY - box.top, box.height, panel.rows));
      };
      for (const kind of ["pointermove", "pointerdown"]) place.addEventListener(kind, track);
      place.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        if (!move) return;
        const [step, row] = map.at || [0, 0];
        point(map, within(step + move[0], panel.steps), within(row + move[1], panel.rows));
        event.preventDefault();
      });
    });
    chosen("inside", (entry) => all('[data-shown="inside"]').forEach((one) => { one.hidden = Number(one.dataset.value) !== entry; }));
  };

  all("[data-curves]").forEach((place) => curves(place, Number(place.dataset.curves)));
  const parts = { confusion, forecast, passage: surprise };
  for (const [id, start] of Object.entries(parts)) {
    const place = document.getElementById(id);
    if (place) start(place);
  }
  if (maps.length) inside();
  const redraw = () => redraws.forEach((draw) => draw());
  [dark, matchMedia("print")].forEach((media) => media.addEventListener("change", redraw));
  root.dataset.drawn = "yes";
})();
