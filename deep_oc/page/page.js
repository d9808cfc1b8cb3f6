'use strict';

// Everything can be read without this; it adds what needs hands.

const theme = document.getElementById('theme');
theme.hidden = false;
theme.addEventListener('click', () => {
  const root = document.documentElement;
  const dark = getComputedStyle(root).colorScheme === 'dark';
  root.dataset.theme = dark ? 'light' : 'dark';
});

function key(row, column) {
  const cell = row.cells[column];
  const data = cell.querySelector('data');
  const text = data ? data.value : cell.textContent.trim();
  return text !== '' && isFinite(text) ? Number(text) : text.toLowerCase();
}

function compare(a, b) {
  if (typeof a === typeof b) {
    return typeof a === 'number' ? a - b : a.localeCompare(b);
  }
  return typeof a === 'number' ? -1 : 1;
}

// Equal rows keep their order; empty cells go last both ways.
function sort(table, heading) {
  const down = heading.getAttribute('aria-sort') === 'ascending';
  for (const each of table.tHead.rows[0].cells) {
    each.setAttribute('aria-sort', 'none');
  }
  heading.setAttribute('aria-sort', down ? 'descending' : 'ascending');
  const body = table.tBodies[0];
  const rows = [...body.rows].map(
      row => ({row, key: key(row, heading.cellIndex)}));
  rows.sort((a, b) => {
    if (a.key === '' || b.key === '') {
      return (a.key === '') - (b.key === '');
    }
    return down ? compare(b.key, a.key) : compare(a.key, b.key);
  });
  body.append(...rows.map(each => each.row));
}

for (const table of document.querySelectorAll('table.sortable')) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...heading.childNodes);
    button.addEventListener('click', () => sort(table, heading));
    heading.append(button);
    heading.setAttribute('aria-sort', 'none');
  }
}

for (const form of document.querySelectorAll('.search')) {
  const table = document.getElementById(form.dataset.table);
  const text = form.querySelector('input[type=search]');
  const means = form.querySelector('input[type=checkbox]');
  const status = form.querySelector('[role=status]');
  const filter = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const content = [...row.cells].map(cell => cell.textContent)
          .join(' ').toLowerCase();
      row.hidden = !words.every(word => content.includes(word)) ||
          means?.checked && row.dataset.mean !== 'true';
      shown += !row.hidden;
    }
    status.textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
  };
  form.hidden = false;
  text.addEventListener('input', filter);
  means?.addEventListener('change', filter);
  filter();
}

for (const box of document.querySelectorAll('.slider')) {
  const input = box.querySelector('input');
  const output = box.querySelector('output');
  const sharp = document.getElementById(box.dataset.filter);
  const told = JSON.parse(box.dataset.told);
  const move = () => {
    const level = Number(input.value);
    sharp.setAttribute('intercept', String(1 - 2 * level));
    output.textContent = told[level];
    input.setAttribute('aria-valuetext', told[level]);
  };
  box.querySelector('.hands').hidden = false;
  input.addEventListener('input', move);
  move();
}
