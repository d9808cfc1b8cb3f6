'use strict';

// What a file is called, and what the service says, is put in as text alone.

const AT_ONCE = 2;  // requests
const TRIES = 20;  // while the service is busy
const LARGE = 128;  // pixels; what is smaller is shown pixel by pixel

const byId = id => document.getElementById(id);
const cards = byId('cards');
const pending = [];
let running = 0;
let model = null;
let limits = null;
let given = [];  // all cards, in the order of the pictures
let shown = [];  // {card, result, heat}
let count = {asked: 0, done: 0, anomalous: 0, failed: 0};
let colours = null;  // 256 times red, green, blue, opacity

const ready = start();

async function start() {
  byId('theme').hidden = false;
  document.querySelector('.hands').hidden = false;
  byId('files').classList.add('mute');
  const answer = await fetch('health').then(each => each.json())
      .catch(() => null);
  if (!answer) {
    byId('model').textContent = 'The service does not answer.';
    return;
  }
  ({model, limits} = answer);
  describe();
  if (model.heat_colours) {
    byId('scale').textContent = 'The scale of the run’s own pictures';
  }
  if (model.localizes) {
    colours = (await pixels('colours.png')).data;
  }
}

function describe() {
  const normal = model.normal_name && model.dataset ?
      `${model.normal_name} (${model.dataset})` :
      model.normal_name || model.dataset;
  byId('model').textContent =
      (normal ? `Normal is: ${normal}. ` : '') +
      `Of normal pictures ${percent(model.false_alarm_rate)} are flagged. ` +
      [model.name, model.classifier && `${model.classifier} on ` +
       `${model.feature}`, model.step !== null && `step ${model.step}`,
       `${model.image_shape[1]}×${model.image_shape[0]} pixels`]
          .filter(Boolean).join(', ') + '.';
  byId('limits').textContent =
      `PNG, JPEG, WebP, BMP or TIFF, up to ${size(limits.max_bytes)} and ` +
      `${Math.floor(limits.max_pixels / 1e5) / 10} megapixels. They stay in ` +
      'the memory of this service and are forgotten once they are scored.';
}

function percent(share) {
  return `${Number((100 * share).toPrecision(3))} %`;
}

function size(bytes) {
  return bytes < 2 ** 20 ? `${Math.floor(bytes / 1024)} KB` :
      `${Math.floor(bytes / 2 ** 20)} MB`;
}

function number(value) {
  return String(Number(value.toPrecision(3)));
}

// Shows the lower end of a range: what is nothing beside the upper is 0.
function lower(value, upper) {
  return number(Math.abs(value) < 1e-6 * Math.abs(upper) ? 0 : value);
}

// Shows a number by as few digits as tell it from another.
function apart(value, other) {
  let digits = 3;
  while (digits < 9 && value !== other &&
         value.toPrecision(digits) === other.toPrecision(digits)) {
    digits += 1;
  }
  return String(Number(value.toPrecision(digits)));
}

function make(name, attributes = {}, ...parts) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    element.setAttribute(key, value);
  }
  element.append(...parts);
  return element;
}

function add(files) {
  for (const file of files) {
    const card = make('li', {}, ...frame(file));
    given.push(card);
    cards.append(card);
    count.asked += 1;
    pending.push({file, card, round: count});
  }
  byId('results').hidden = cards.childElementCount === 0;
  tell();
  pump();
}

function frame(file) {
  const image = make('img', {alt: ''});
  const url = URL.createObjectURL(file);
  image.addEventListener('load', () => {
    URL.revokeObjectURL(url);
    image.className = sharpness(image.naturalWidth, image.naturalHeight);
  });
  image.addEventListener('error', () => {  // as of a TIFF file
    URL.revokeObjectURL(url);
    image.remove();
  });
  image.src = url;
  const about = make('div', {class: 'about'},
      make('h3', {}, make('bdi', {}, file.name || 'pasted picture')),
      make('p', {class: 'verdict'}, 'waits …'));
  return [make('div', {class: 'view'}, image), about];
}

function sharpness(width, height) {
  return Math.max(width, height) < LARGE ? 'sharp' : '';
}

async function pump() {
  await ready;
  while (running < AT_ONCE && pending.length) {
    const job = pending.shift();
    running += 1;
    score(job.file, job.round)
        .then(result => show(job, result), error => fail(job, error))
        .finally(() => {
          running -= 1;
          pump();
        });
  }
}

async function score(file, round) {
  if (limits && file.size > limits.max_bytes) {
    throw new Error(`larger than ${size(limits.max_bytes)}`);
  }
  for (let i = 0; ; ++i) {
    const form = new FormData();
    form.append('image', file, file.name || 'pasted picture');
    const answer = await fetch(
        `score?maps=${Boolean(model && model.localizes)}`,
        {method: 'POST', body: form}).catch(() => null);
    if (!answer) {
      throw new Error('the service does not answer');
    }
    if (answer.status === 503 && i < TRIES && round === count) {
      const seconds = Number(answer.headers.get('retry-after')) || 1;
      await new Promise(each => setTimeout(each, 1000 * seconds));
      continue;
    }
    const found = await answer.json().catch(() => ({}));
    if (!answer.ok) {
      throw new Error(found.error ? withoutName(found) :
          `the service says ${answer.status}`);
    }
    return found.results[0];
  }
}

function withoutName({error, file}) {  // it stands above
  return file && error.startsWith(`${file}: `) ?
      error.slice(file.length + 2) : error;
}

async function show(job, result) {
  const {card, round} = job;
  if (round !== count) {
    return;  // cleared meanwhile
  }
  const heat = result.heat_map && await pixels(result.heat_map);
  if (round !== count) {
    return;
  }
  card.classList.add(result.anomalous ? 'anomalous' : 'normal');
  card.querySelector('.verdict').textContent =
      result.anomalous ? '▲ anomalous' : '✓ normal';
  card.querySelector('.about').append(track(), facts(result));
  if (heat) {
    overlay(card, result, heat);
  }
  shown.push({card, result, heat});
  count.done += 1;
  count.anomalous += result.anomalous;
  tell();
  arrange();
  place();
  paint();
}

function facts(result) {
  const {score, threshold} = result;
  const list = make('dl');
  const add = (name, value) => list.append(
      make('dt', {}, name), make('dd', {}, value));
  add('score', threshold === null ? number(score) : apart(score, threshold));
  if (threshold !== null) {
    add('threshold', apart(threshold, score));
  }
  add('p-value', `${number(result.p_value)} ` +
      `${result.anomalous ? '≤' : '>'} ${number(result.false_alarm_rate)}`);
  if (result.regions) {
    add('regions', String(result.regions.length));
  }
  if (result.heat_map) {
    add('heat map', `${lower(result.heat_low, result.heat_high)} to ` +
        number(result.heat_high));
  }
  return list;
}

function overlay(card, result, heat) {
  const view = card.querySelector('.view');
  const small = sharpness(heat.width, heat.height);
  const canvas = make('canvas', {
    width: heat.width, height: heat.height, role: 'img', class: small,
    'aria-label': 'Heat map'});
  view.replaceChildren(
      make('img', {src: result.picture, alt: '', class: small}), canvas);
}

function fail({card, round}, error) {
  if (round !== count) {
    return;
  }
  card.classList.add('failed');
  card.querySelector('.verdict').textContent = '✕ not scored';
  card.querySelector('.about').append(make('p', {}, error.message));
  count.failed += 1;
  tell();
}

function tell() {
  const {asked, done, anomalous, failed} = count;
  byId('status').textContent = `${done} of ${asked} scored, ${anomalous} ` +
      `anomalous${failed ? `, ${failed} not scored` : ''}.`;
}

// What has no score stands last.
function arrange() {
  const rank = new Map(shown.map(({card, result}) => [card, -result.score]));
  const of = card => rank.has(card) ? rank.get(card) : Infinity;
  const order = byId('sort').checked ?
      [...given].sort((a, b) => of(a) - of(b) || 0) : given;
  if (order.some((card, i) => card !== cards.children[i])) {
    cards.append(...order);
  }
}

function track() {
  return make('div', {class: 'track', 'aria-hidden': 'true'}, make('i'));
}

// All scores of the page on one line, the threshold dashed.
function place() {
  const values = shown.map(each => each.result.score);
  const threshold = model && model.threshold;
  const all = typeof threshold === 'number' ? [...values, threshold] : values;
  const low = Math.min(...all);
  const span = Math.max(...all) - low || 1;
  const at = value => `${100 * (value - low) / span}%`;
  for (const {card, result} of shown) {
    const line = card.querySelector('.track');
    line.querySelector('i').style.left = at(result.score);
    if (typeof threshold === 'number') {
      const mark = line.querySelector('b') || make('b');
      mark.style.left = at(threshold);
      line.prepend(mark);
    }
  }
}

async function pixels(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = make('canvas', {width: image.width, height: image.height});
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  return context.getImageData(0, 0, image.width, image.height);
}

// Equal scores have equal colours. The run's scale is that of its own pictures,
// see deep_oc/heat_colours.py. Without it, that of this page: by the square root,
// or one large defect would hide all small ones.
function scale(drawn) {
  const run = model.heat_colours;
  if (!run) {
    return {low: Math.min(...drawn.map(each => each.result.heat_low)),
            high: Math.max(...drawn.map(each => each.result.heat_high)),
            bent: Math.sqrt, unbent: share => share ** 2};
  }
  const {low, high, knee} = run;
  const turns = knee ? (high - low) / knee : 0;
  const most = Math.asinh(turns);
  return turns ?
      {low, high, bent: share => Math.asinh(turns * share) / most,
       unbent: share => Math.sinh(most * share) / turns} :
      {low, high, bent: share => share, unbent: share => share};
}

// The lowest scores let the picture through.
function paint() {
  const drawn = shown.filter(each => each.heat);
  byId('opacity-box').hidden = !drawn.length;
  if (!drawn.length || !colours) {
    return;
  }
  const used = scale(drawn);
  const {low, high} = used;
  byId('low').textContent = lower(low, high);
  byId('middle').textContent = number(
      low + (high - low) * used.unbent(0.5));
  byId('high').textContent = number(high);
  for (const {card, result, heat} of drawn) {
    const canvas = card.querySelector('canvas');
    const context = canvas.getContext('2d');
    context.putImageData(coloured(heat, result, used), 0, 0);
    outline(context, result.regions || []);
  }
}

// A white rectangle inside the edge of each region, a black one around it.
function outline(context, regions) {
  const {width, height} = context.canvas;
  const line = Math.max(1, Math.round(Math.max(width, height) / 160));
  for (const [colour, by] of [['black', line / 2], ['white', -line / 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    for (const {left, top, width: wide, height: high} of regions) {
      context.strokeRect(left * width - by, top * height - by,
                         wide * width + 2 * by, high * height + 2 * by);
    }
  }
}

function coloured(heat, {heat_low: from, heat_high: to}, {low, high, bent}) {
  const data = new Uint8ClampedArray(heat.data.length);
  for (let i = 0; i < data.length; i += 4) {
    const value = from + heat.data[i] / 255 * (to - from);
    const share = bent(
        Math.max(0, Math.min((value - low) / (high - low || 1), 1)));
    const level = 4 * Math.round(255 * share);
    data.set(colours.subarray(level, level + 3), i);
    data[i + 3] = 255 * Math.min(1, 0.05 + 1.4 * share);
  }
  return new ImageData(data, heat.width, heat.height);
}

byId('theme').addEventListener('click', () => {
  const root = document.documentElement;
  const dark = getComputedStyle(root).colorScheme === 'dark';
  root.dataset.theme = dark ? 'light' : 'dark';
});

byId('files').addEventListener('change', event => {
  add([...event.target.files]);
  event.target.value = '';  // so that the same file can be chosen again
});

byId('upload').addEventListener('submit', event => event.preventDefault());

byId('clear').addEventListener('click', () => {
  pending.length = 0;
  given = [];
  shown = [];
  count = {asked: 0, done: 0, anomalous: 0, failed: 0};
  cards.replaceChildren();
  byId('results').hidden = true;
  byId('files').focus();
});

byId('sort').addEventListener('change', arrange);

byId('opacity').addEventListener('input', event => {
  const told = `${event.target.value} %`;
  document.documentElement.style.setProperty(
      '--opacity', event.target.value / 100);
  event.target.setAttribute('aria-valuetext', told);
  byId('opacity-told').textContent = told;
});

let inside = 0;  // elements that the pointer is in while it drags
const over = step => {
  inside = step ? inside + step : 0;
  byId('upload').classList.toggle('over', inside > 0);
};
document.addEventListener('dragenter', () => over(1));
document.addEventListener('dragleave', () => over(-1));
document.addEventListener('dragover', event => event.preventDefault());
document.addEventListener('drop', event => {
  event.preventDefault();
  over(0);
  add([...event.dataTransfer.files]);
});

document.addEventListener('paste', event => {
  const files = [...event.clipboardData.files];
  if (files.length) {
    event.preventDefault();
    add(files);
  }
});
