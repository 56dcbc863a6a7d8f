// Numbers and maps: how they are read from the page's data, written and coloured.
// In one module with explain.js.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const stored = document.getElementsByClassName("maps"); // one a layer and image, layer by layer
const STEPS = 255;
const KEPT = 24; // decoded pairs of layer and image, so that a long visit does not fill memory
const DASH = "–";

function number(value) {
  if (value === null) return DASH;
  const size = Math.abs(value);
  if (size !== 0 && size < 0.0005) return value.toExponential(1).replaceAll("-", "−");
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
  return value.toFixed(digits).replace("-", "−");
}

/** A fraction in percent, without the unit. */
function percent(value) {
  return value === null ? DASH : (100 * value).toFixed(1);
}

function extremes(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return { low, high, constant: high - low <= data.flat * Math.max(Math.abs(low), Math.abs(high)) };
}

// Elements.

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function radio(className, ...children) {
  const button = make("button", { type: "button", className }, ...children);
  button.setAttribute("role", "radio");
  return button;
}

function surface(width, height) {
  return make("canvas", { width, height });
}

// The maps, decoded when they are first seen.

async function decode(tiles, count, height, width) {
  const image = new Image();
  image.src = tiles.uri;
  await image.decode();
  const context = surface(width, height).getContext("2d", { willReadFrequently: true });
  return Array.from({ length: count }, (_, at) => {
    context.drawImage(image, 0, at * height, width, height, 0, 0, width, height);
    const pixels = context.getImageData(0, 0, width, height).data;
    const low = tiles.low[at];
    const step = (tiles.high[at] - low) / STEPS;
    return Float32Array.from({ length: width * height }, (_, cell) => low + step * pixels[4 * cell]);
  });
}

async function decodeMaps(layerAt, imageAt) {
  const text = stored[layerAt * data.images.length + imageAt].textContent;
  const { height, width, gate, before } = JSON.parse(text);
  const count = data.layers[layerAt].groups.length;
  const both = [gate, before].map((tiles) => decode(tiles, count, height, width));
  const [gates, befores] = await Promise.all(both);
  const afters = befores.map((values, at) => values.map((value, cell) => value * gates[at][cell]));
  return { height, width, gate: gates, before: befores, after: afters };
}

const decoded = new Map();
function load(layerAt, imageAt) {
  const key = `${layerAt}/${imageAt}`;
  if (!decoded.has(key)) {
    if (decoded.size >= KEPT) decoded.delete(decoded.keys().next().value);
    decoded.set(key, decodeMaps(layerAt, imageAt));
  }
  return decoded.get(key);
}

/** Some browsers disturb what a page reads from a canvas; numbers from there would be wrong. */
function readsTrue() {
  const context = surface(STEPS + 1, 1).getContext("2d", { willReadFrequently: true });
  const painted = context.createImageData(STEPS + 1, 1);
  painted.data.forEach((_, at) => { painted.data[at] = at % 4 === 3 ? STEPS : at >> 2; });
  context.putImageData(painted, 0, 0);
  const read = context.getImageData(0, 0, STEPS + 1, 1).data;
  return read.every((value, at) => value === painted.data[at]);
}

const READS_TRUE = readsTrue();

const COLOURS = data.colours.match(/../g).map((pair) => parseInt(pair, 16));

function paint(values, { height, width }, low, high) {
  const canvas = surface(width, height);
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(width, height);
  values.forEach((value, cell) => {
    const colour = high > low ? Math.round((STEPS * (value - low)) / (high - low)) : STEPS >> 1;
    for (let part = 0; part < 3; part += 1) pixels.data[4 * cell + part] = COLOURS[3 * colour + part];
    pixels.data[4 * cell + 3] = STEPS;
  });
  context.putImageData(pixels, 0, 0);
  return canvas;
}
