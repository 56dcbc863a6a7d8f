// What is drawn, in words and numbers. In one module with explain.js, whose state it reads.

function noun(name) {
  return name === "gate" ? kind().noun : name;
}

function describeScale() {
  const name = what();
  $("scale").hidden = name === "picture";
  $("range").hidden = name === "picture";
  $("opacity").disabled = name === "picture";
  if (name === "picture") return;
  const { low, high, constant, from, to } = scaleOf(name, state.group);
  const flat = from === to;
  $("low").textContent = flat ? "" : number(from);
  $("high").textContent = number(to);
  $("ramp").style.background = ramp(flat);
  const subject = `${noun(name)} of group ${group().index} here`;
  $("range").textContent = constant
    ? `The ${subject} is constant: ${number((low + high) / 2)} at every cell.`
    : `The ${subject}: lowest ${number(low)}, highest ${number(high)}.`;
}

function ramp(flat) {
  const stop = (at) => `rgb(${COLOURS.slice(3 * at, 3 * at + 3).join(" ")})`;
  if (flat) return stop(STEPS >> 1);
  return `linear-gradient(to right, ${Array.from({ length: 18 }, (_, at) => stop(15 * at)).join(", ")})`;
}

function reading(cell) {
  const { height, width } = shown.maps;
  const at = cell[0] * width + cell[1];
  const names = kind().after ? ["gate", "before", "after"] : ["gate", "before"];
  const values = names.map((name) => `${noun(name)} ${number(shown.maps[name][state.group][at])}`);
  const place = `row ${cell[0] + 1} of ${height}, column ${cell[1] + 1} of ${width}`;
  return { place, values: values.join(", ") };
}

function tell(cell) {
  const { place, values } = cell === null ? { place: "no cell chosen", values: "" } : reading(cell);
  $("readout").replaceChildren(make("strong", {}, values), make("span", {}, place));
}

function describeGroup() {
  const entry = group();
  const values = shown.maps.gate[state.group];
  const { low, high, constant } = extremes(values);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const range = `${number(low)} to ${number(high)}, mean ${number(mean)}`;
  $("chosen").textContent = `Group ${entry.index} of ${layer().name}`;
  $("facts").replaceChildren(
    fact("selectivity", number(entry.selectivity)),
    fact(`${kind().noun} here`, constant ? `constant, ${number(mean)}` : range),
  );
  const rows = data.regions.map((name) => scoreRow(name, scoreOf(entry, name)));
  $("scores")?.tBodies[0].replaceChildren(...rows);
}

function fact(name, value) {
  return make("div", {}, make("dt", {}, name), make("dd", {}, value));
}

function scoreRow(name, score) {
  const heading = make("th", { scope: "row" }, name);
  const cell = (...parts) => make("td", {}, ...parts);
  if (!score) return make("tr", {}, heading, cell(DASH), cell(DASH), cell(DASH));
  heading.append(make("small", { className: score.significant ? "sign" : "" }, verdict(score)));
  const known = score.low !== null && score.high !== null;
  const interval = known ? `${percent(score.low)} to ${percent(score.high)}` : "";
  const pointing = cell(percent(score.pointing), make("small", {}, interval), track(score));
  const auroc = score.auroc === null ? DASH : score.auroc.toFixed(2);
  return make("tr", {}, heading, pointing, cell(percent(score.chance)), cell(auroc));
}

function verdict(score) {
  if (!score.significant) return "not above chance";
  return "▲ above chance";
}

function track(score) {
  const bar = make("span", { className: "track" });
  bar.setAttribute("aria-hidden", "true");
  const part = (className, from, to) => {
    if (from === null || to === null) return;
    const piece = make("span", { className });
    piece.style.left = `${100 * from}%`;
    piece.style.width = `${100 * (to - from)}%`;
    bar.append(piece);
  };
  part("interval", score.low, score.high);
  part("chance", score.chance, score.chance);
  part("dot", score.pointing, score.pointing);
  return bar;
}
