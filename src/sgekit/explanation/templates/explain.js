// The explorer: what is chosen, what is drawn, and the ways to choose. In one module with
// explain_maps.js and explain_words.js.

const KINDS = {
  gate: { noun: "gate", after: true, note: "" },
  similarity: {
    noun: "similarity",
    after: false,
    note: "This network has no attention here. The map is what SGE would compute from this layer; the network does not use it.",
  },
  ratio: {
    noun: "ratio",
    after: true,
    note: "This attention is not SGE. The map is the length of each vector after the layer divided by the length before; it may exceed 1.",
  },
};
const state = { layer: 0, image: 0, group: 0, sort: "selectivity", show: "gate", cell: null };
const view = $("view");
let shown = null; // the maps and the picture of the layer and image chosen; null until decoded
let grid = null; // rows and columns that the cell chosen was counted in
let current = false; // whether the groups' tiles show what is chosen
let turn = 0;

function mark(group, chosen) {
  for (const item of group.children) {
    item.setAttribute("aria-checked", String(item === chosen));
    item.tabIndex = item === chosen ? 0 : -1;
  }
}

/** Scroll the list alone: scrollIntoView would move the page too. */
function reveal(list, item) {
  const top = item.offsetTop - 6;
  const bottom = top + item.offsetHeight + 12 - list.clientHeight;
  list.scrollTop = Math.min(Math.max(list.scrollTop, bottom), top);
}

// The layer, the group and their order.

const layer = () => data.layers[state.layer];
const group = () => layer().groups[state.group];
const kind = () => KINDS[layer().kind];
const what = () => (state.show === "after" && !kind().after ? "gate" : state.show);

function sortValue(entry) {
  if (state.sort === "index") return -entry.index;
  if (state.sort === "selectivity") return entry.selectivity;
  return scoreOf(entry, state.sort.slice("region:".length))?.pointing ?? null;
}

function scoreOf(entry, region) {
  return Object.hasOwn(entry.regions, region) ? entry.regions[region] : undefined;
}

function order() {
  const groups = layer().groups;
  const rank = (position) => sortValue(groups[position]) ?? -Infinity;
  const byIndex = (a, b) => groups[a].index - groups[b].index;
  return groups.map((_, position) => position).sort((a, b) => {
    const [first, second] = [rank(a), rank(b)];
    return first === second ? byIndex(a, b) : second - first;
  });
}

function sortText(entry) {
  if (state.sort === "index") return "";
  if (state.sort === "selectivity") return number(entry.selectivity);
  return sortValue(entry) === null ? DASH : `${percent(sortValue(entry))} %`;
}

function sortName() {
  if (state.sort === "selectivity") return "selectivity";
  return `pointing at ${state.sort.slice("region:".length)}`;
}

// Drawing.

/** Lengths share one scale from 0, so that what is dimmed is seen as darker; a gate has its own. */
function scaleOf(name, at) {
  const found = extremes(shown.maps[name][at]);
  if (name === "gate") {
    return { ...found, from: found.low, to: found.constant ? found.low : found.high };
  }
  const lengths = kind().after ? ["before", "after"] : ["before"];
  const to = Math.max(...lengths.map((length) => extremes(shown.maps[length][at]).high));
  return { ...found, from: 0, to };
}

function overlay(canvas, name, at, opacity) {
  const context = canvas.getContext("2d");
  context.drawImage(shown.picture, 0, 0, canvas.width, canvas.height);
  if (name === "picture") return;
  // Without its own colours below, so that those of the map are read as they are.
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "#808080";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "source-over";
  const { from, to } = scaleOf(name, at);
  context.globalAlpha = opacity;
  context.imageSmoothingEnabled = false; // cells are what there is: nothing is known between them
  const map = paint(shown.maps[name][at], shown.maps, from, to);
  context.drawImage(map, 0, 0, canvas.width, canvas.height);
  context.globalAlpha = 1;
  context.imageSmoothingEnabled = true;
}

function frame(canvas, [row, column]) {
  const context = canvas.getContext("2d");
  const [width, height] = [canvas.width / shown.maps.width, canvas.height / shown.maps.height];
  for (const [colour, line] of [["#000", 5], ["#fff", 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = line * devicePixelRatio;
    context.strokeRect(column * width, row * height, width, height);
  }
}

function drawView() {
  if (shown === null) return;
  const entry = data.images[state.image];
  view.style.aspectRatio = `${entry.width} / ${entry.height}`;
  view.style.maxWidth = `calc(72vh * ${entry.width / entry.height})`;
  const size = view.getBoundingClientRect();
  view.width = Math.max(1, Math.round(size.width * devicePixelRatio));
  view.height = Math.max(1, Math.round(size.height * devicePixelRatio));
  overlay(view, what(), state.group, $("opacity").value / 100);
  if (state.cell !== null) frame(view, state.cell);
}

function drawTiles() {
  const entry = data.images[state.image];
  for (const tile of $("groups").children) {
    const canvas = tile.firstChild;
    canvas.width = 128;
    canvas.height = Math.max(1, Math.round((128 * entry.height) / entry.width));
    overlay(canvas, "gate", Number(tile.value), 0.8);
  }
  current = true;
}

// The lists to choose from.

function buildImages() {
  const items = data.images.map((entry, at) => {
    const button = radio("thumb", make("img", { src: entry.uri, alt: "", decoding: "async" }));
    button.title = entry.title;
    button.setAttribute("aria-label", `image ${at + 1}: ${entry.title}`);
    button.addEventListener("click", () => choose({ image: at }));
    return button;
  });
  $("images").replaceChildren(...items);
}

function buildGroups() {
  const items = order().map((at) => {
    const entry = layer().groups[at];
    const name = `group ${entry.index}`;
    const value = make("small", {}, sortText(entry));
    const button = radio("tile", surface(1, 1), make("span", {}, name), value);
    button.value = String(at);
    const rank = state.sort === "index" ? "" : `, ${sortName()} ${sortText(entry)}`;
    button.setAttribute("aria-label", name + rank);
    button.addEventListener("click", () => choose({ group: at }));
    return button;
  });
  $("groups").replaceChildren(...items);
  const { groups, total } = layer();
  const all = total === 1 ? "The layer has one group." : `All ${total} groups of the layer.`;
  const some = `${groups.length} of the layer's ${total} groups are on this page.`;
  $("count").textContent = groups.length < total ? some : all;
}

function showControls() {
  $("layer").value = String(state.layer);
  $("sort").value = state.sort;
  $("kind").textContent = kind().note;
  $("kind").hidden = kind().note === "";
  for (const input of document.getElementsByName("show")) {
    input.checked = input.value === what();
    input.parentElement.hidden = input.value === "after" && !kind().after;
    input.nextElementSibling.textContent = noun(input.value);
  }
  const tile = [...$("groups").children].find((item) => item.value === String(state.group));
  const thumb = $("images").children[state.image];
  mark($("groups"), tile);
  mark($("images"), thumb);
  reveal($("groups"), tile);
  reveal($("images"), thumb);
  const { title, source } = data.images[state.image];
  $("caption").replaceChildren(make("strong", {}, title), source ? ` · ${source}` : "");
}

function showOpacity() {
  $("percent").textContent = `${$("opacity").value} %`;
  $("opacity").setAttribute("aria-valuetext", $("percent").textContent);
}

// One way for every change: state, lists, then what has to be decoded first.

function choose(change) {
  const before = { ...state };
  Object.assign(state, change);
  if (state.layer !== before.layer && change.group === undefined) state.group = order()[0];
  const relist = state.layer !== before.layer || state.sort !== before.sort;
  const drawn = render(relist, state.layer === before.layer ? "" : kind().note);
  if (state.sort !== before.sort) $("groups").scrollTop = 0; // the best first, whatever is chosen
  return drawn.then(remember);
}

async function render(relist, spoken = "") {
  turn += 1;
  const mine = turn;
  $("explorer").setAttribute("aria-busy", "true");
  const moved = shown?.layer !== state.layer || shown.image !== state.image;
  if (moved) shown = null; // until the new maps are there, nothing is to be read from the old ones
  if (moved || relist) current = false;
  if (relist) buildGroups();
  showControls();
  const picture = $("images").children[state.image].firstChild;
  try {
    const [maps] = await Promise.all([load(state.layer, state.image), picture.decode()]);
    if (mine !== turn) return; // another choice has been made meanwhile
    if (state.cell !== null) state.cell = sameSpot(state.cell, grid, maps);
    grid = maps;
    shown = { layer: state.layer, image: state.image, maps, picture };
    update(spoken);
  } catch (error) {
    if (mine !== turn) return;
    view.width = 1; // empty: what was drawn there was something else
    fail(`${layer().name}, image ${state.image + 1}: the maps could not be decoded (${error.message}).`);
  }
}

function update(spoken) {
  if (READS_TRUE) $("failure").hidden = true;
  if (!current) drawTiles();
  drawView();
  describeScale();
  describeGroup();
  tell(state.cell);
  const map = `${noun(what())} of group ${group().index}, ${layer().name}`;
  const subject = what() === "picture" ? "picture" : map;
  view.setAttribute("aria-label", `${subject}: ${data.images[state.image].title}`);
  if (spoken !== "") $("spoken").textContent = spoken;
  $("explorer").setAttribute("aria-busy", "false");
}

/** The cell of other maps that lies where this cell's middle does. */
function sameSpot([row, column], from, to) {
  const move = (value, count, other) => Math.floor(((value + 0.5) * other) / count);
  return [move(row, from.height, to.height), move(column, from.width, to.width)];
}

function fail(message) {
  $("failure").textContent = message;
  $("failure").hidden = false;
  $("explorer").setAttribute("aria-busy", "false");
}

// Cells: under the pointer, or by keyboard.

function within(value, count) {
  return Math.min(count - 1, Math.max(0, value));
}

function cellAt(event) {
  const box = view.getBoundingClientRect();
  const place = (offset, length, count) => within(Math.floor((offset / length) * count), count);
  const { height, width } = shown.maps;
  const row = place(event.clientY - box.top, box.height, height);
  return [row, place(event.clientX - box.left, box.width, width)];
}

function moveTo(cell, aloud) {
  state.cell = cell;
  drawView();
  tell(cell);
  if (!aloud) return;
  const { place, values } = reading(cell);
  $("spoken").textContent = `${place}: ${values}`;
}

function strongest() {
  const values = shown.maps.gate[state.group];
  const at = values.indexOf(values.reduce((best, value) => Math.max(best, value), -Infinity));
  return [Math.floor(at / shown.maps.width), at % shown.maps.width];
}

function moveByKey(event) {
  const steps = {
    ArrowUp: [-1, 0],
    ArrowDown: [1, 0],
    ArrowLeft: [0, -1],
    ArrowRight: [0, 1],
    Home: [0, -Infinity],
    End: [0, Infinity],
  };
  const step = steps[event.key];
  if (shown === null || event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "Escape") {
    state.cell = null;
    drawView();
    tell(null);
  }
  if (!step) return;
  event.preventDefault();
  const [row, column] = state.cell ?? strongest();
  const { height, width } = shown.maps;
  moveTo([within(row + step[0], height), within(column + step[1], width)], true);
}

function listenToCells() {
  view.addEventListener("pointermove", (event) => { if (shown) tell(cellAt(event)); });
  view.addEventListener("pointerdown", (event) => { if (shown) moveTo(cellAt(event), false); });
  view.addEventListener("pointerleave", () => { if (shown) tell(state.cell); });
  view.addEventListener("keydown", moveByKey);
  view.addEventListener("focus", () => {
    if (shown && state.cell === null && view.matches(":focus-visible")) moveTo(strongest(), true);
  });
  new ResizeObserver(drawView).observe(view);
}

/** Arrow keys within a radio group: along it, and by rows as they are laid out. */
function rove(list) {
  list.addEventListener("keydown", (event) => {
    const items = [...list.children];
    const at = items.indexOf(document.activeElement);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const columns = items.filter((item) => item.offsetTop === items[0].offsetTop).length;
    const steps = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -columns,
      ArrowDown: columns,
      Home: -at,
      End: items.length - 1 - at,
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const next = items[at + steps[event.key]];
    if (!next) return;
    next.focus();
    next.click();
  });
}

// The address: a view can be linked. What is not understood is passed over.

function remember() {
  const parts = new URLSearchParams({
    layer: layer().name,
    image: state.image + 1,
    group: group().index,
    sort: state.sort,
    show: what(),
  });
  try {
    history.replaceState(null, "", `#${parts}`);
  } catch { /* browsers limit how often: the view stands without its address */ }
}

function recall() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const layerAt = data.layers.findIndex((entry) => entry.name === parts.get("layer"));
  const image = Number(parts.get("image"));
  if (layerAt >= 0) state.layer = layerAt;
  if (Number.isInteger(image) && image >= 1 && image <= data.images.length) state.image = image - 1;
  const offered = (choices, name) => [...choices].some(({ value }) => value === parts.get(name));
  if (offered($("sort").options, "sort")) state.sort = parts.get("sort");
  if (offered(document.getElementsByName("show"), "show")) state.show = parts.get("show");
  const at = layer().groups.findIndex((entry) => String(entry.index) === parts.get("group"));
  state.group = at >= 0 ? at : order()[0];
}

function listen() {
  $("layer").addEventListener("change", (event) => choose({ layer: Number(event.target.value) }));
  $("sort").addEventListener("change", (event) => choose({ sort: event.target.value }));
  for (const input of document.getElementsByName("show")) {
    input.addEventListener("change", () => choose({ show: input.value }));
  }
  $("opacity").addEventListener("input", () => { showOpacity(); drawView(); });
  addEventListener("hashchange", () => { recall(); render(true); });
  rove($("images"));
  rove($("groups"));
  listenToCells();
}

if (!READS_TRUE) {
  fail("This browser changes what a page reads from its own pictures (a protection against fingerprinting), so the values below may be wrong.");
}
$("explorer").hidden = false;
buildImages();
showOpacity();
recall();
listen();
render(true);
