// The fit table: *Load* of a row, the code that loads a row once it is opened, and files to keep (see `keep.js`).
// Gradio gives `element`, `server`, `watch` and `trigger`.
const MISSING = 'This table is not at hand any more. Press Estimate and try again.';
let seen = '';

const ticket = () => element.querySelector('.qs-fit')?.dataset.ticket ?? '';

async function ask(name, ...given) {
  try {
    return await server[name](ticket(), ...given);
  } catch {
    return null;
  }
}

function note(words) {
  const line = document.createElement('p');
  line.className = 'qs-note';
  line.setAttribute('role', 'status');
  line.textContent = words;
  return line;
}

async function showCode(details) {
  details.dataset.state = 'asked';
  const html = await ask('code_of_row', details.closest('[data-row]').dataset.row);
  details.dataset.state = html === null ? 'failed' : 'shown';
  details.querySelector(':scope > div, :scope > .qs-note')?.remove();
  if (html === null) return void details.append(note(MISSING));
  const place = document.createElement('div');
  place.innerHTML = html;
  details.append(place);
}

function keep(button) {
  const theme = document.body.classList.contains('dark') ? 'dark' : 'light';
  const file = ask('file_of_table', button.dataset.keep, theme);
  button.dispatchEvent(new CustomEvent('quantspace-keep', { bubbles: true, detail: { file, missing: MISSING } }));
}

element.addEventListener('click', (event) => {
  const load = event.target.closest('button[data-precision]');
  if (load && !load.disabled) trigger('click', { ...load.dataset });
  const kept = event.target.closest('button[data-keep]');
  if (kept) keep(kept);
});

element.addEventListener('toggle', (event) => {
  const details = event.target;
  if (details.open && details.matches('.qs-code') && !['asked', 'shown'].includes(details.dataset.state)) showCode(details);
}, true); // toggle does not bubble

watch('value', () => { // once for each row that is asked for, not at every change of the workload
  const row = element.querySelector('.qs-asked');
  const asked = row ? element.querySelector('.qs-fit').dataset.asked + row.dataset.row : '';
  if (row && asked !== seen) row.scrollIntoView({ block: 'center' });
  seen = asked;
});

// The row whose model is in memory says so, whatever changes: the table, or what is loaded.
function markLoaded() {
  const loaded = document.querySelector('#readout .qs-readout')?.dataset ?? {};
  for (const button of element.querySelectorAll('button[data-precision]')) {
    const here = ['model', 'revision', 'precision'].every((name) => button.dataset[name] === loaded[name]);
    const row = button.closest('.qs-row');
    row.querySelector('.qs-loaded')?.remove();
    row.toggleAttribute('data-loaded', here);
    button.textContent = here ? 'Load again' : 'Load';
    button.setAttribute('aria-label', button.getAttribute('aria-label').replace(/^Load( again)?/, button.textContent));
    if (!here) continue;
    const badge = document.createElement('span');
    badge.className = 'qs-best qs-loaded';
    badge.textContent = 'loaded';
    row.querySelector('.qs-name > small').before(badge);
  }
}

document.addEventListener('quantspace-loaded', markLoaded);
watch('value', markLoaded);
