// Type-ahead beneath the model field, by the ARIA combobox pattern (list autocomplete with manual selection):
// what is typed stays what is asked, unless a suggestion is taken. Gradio gives `element` and `server`.
const DEBOUNCE_MS = 250;
const MOST_RECENT = 8;
const STORE = 'quantspace-recent';
const list = element.querySelector('[role=listbox]');
const said = element.querySelector('[role=status]');
const field = () => document.querySelector('#model input');
let shown = [];
let active = -1;
let asked = 0; // every change of the text; an answer to an earlier one comes too late
let waiting = null;
let answers = null; // a promise: what is known and found for the last change has been shown
let unsettled = false; // typed, and not asked about yet
let pasted = false; // at the last change
let settled = ''; // what was asked last, or filled in
let taking = false; // a suggestion is being put into the field

let recent = [];
try {
  recent = JSON.parse(sessionStorage.getItem(STORE)) || [];
} catch { /* storage may be closed to a frame of another site: then the page alone remembers */ }

function remember(model) {
  recent = [model, ...recent.filter((other) => other !== model)].slice(0, MOST_RECENT);
  try {
    sessionStorage.setItem(STORE, JSON.stringify(recent));
  } catch { /* as above */ }
}

function describe(found) {
  const parts = [];
  if (found.recent) parts.push('recent');
  if (found.bundled) parts.push('known without the Hub');
  if (found.downloads) parts.push(`${found.downloads.toLocaleString('en')} downloads`);
  if (found.task) parts.push(found.task);
  if (found.gated) parts.push('gated');
  return parts.join(' · ');
}

function option(found, index) {
  const item = document.createElement('li');
  item.id = `qs-option-${index}`;
  item.dataset.model = found.id;
  item.setAttribute('role', 'option');
  item.setAttribute('aria-selected', 'false');
  const name = document.createElement('span');
  name.textContent = found.id;
  const about = document.createElement('small');
  about.textContent = describe(found);
  item.append(name, ' ', about);
  return item;
}

function show(groups) {
  const chosen = shown[active]?.id;
  const byId = new Map();
  for (const found of groups.flat()) byId.set(found.id, { ...found, ...byId.get(found.id) });
  shown = [...byId.values()];
  list.replaceChildren(...shown.map(option));
  mark(shown.findIndex((found) => found.id === chosen), false);
  open(shown.length > 0 && document.activeElement === field());
}

function open(wanted) {
  list.hidden = !wanted;
  const input = field();
  input?.setAttribute('aria-expanded', String(wanted));
  if (!wanted) mark(-1);
  said.textContent = wanted ? `${shown.length} suggestion${shown.length === 1 ? '' : 's'}` : '';
}

function mark(index, scroll = true) {
  active = index;
  [...list.children].forEach((item, i) => item.setAttribute('aria-selected', String(i === index)));
  const input = field();
  if (index < 0) return void input?.removeAttribute('aria-activedescendant');
  input.setAttribute('aria-activedescendant', list.children[index].id);
  if (scroll) list.children[index].scrollIntoView({ block: 'nearest' });
}

async function suggest(text) {
  const mine = ++asked;
  clearTimeout(waiting);
  const words = text.toLowerCase().split(/[\s/]+/).filter(Boolean);
  const recents = recent
    .filter((id) => words.every((word) => id.toLowerCase().includes(word)))
    .map((id) => ({ id, recent: true }));
  const groups = { known: [], found: [] };
  const ask = async (name, ...given) => {
    const answer = await server[name](...given).catch(() => []); // no answer, no suggestions
    if (mine !== asked) return;
    groups[name] = Array.isArray(answer) ? answer : [];
    show([recents, groups.known, groups.found]);
  };
  const later = new Promise((due) => { waiting = setTimeout(due, DEBOUNCE_MS); });
  answers = Promise.all([
    ask('known', text),
    later.then(() => ask('found', text, document.querySelector('#token input')?.value ?? '')),
  ]);
}

// A model that was asked for already is no search for others: all that is known is offered.
function offer() {
  suggest(unsettled ? field().value : '');
}

function close() {
  asked++;
  clearTimeout(waiting);
  open(false);
}

const same = (one, other) => one.trim().toLowerCase() === other.trim().toLowerCase();

// What is left in the field may be half a name: it is asked for only where it can be meant as a whole. Else it stays
// as a draft, and other questions of the form go on asking for the model before it (`SETTLED_MODEL` of `model_field.py`).
async function leave(input) {
  const text = input.value;
  const mine = asked;
  open(false);
  Object.assign(input.dataset, { draft: text, settled });
  const link = /[:@]|\.co\//.test(text);
  if (!pasted && !link) await answers;
  const meant = pasted || link || !shown.length || shown.some((found) => same(found.id, text));
  if (mine !== asked || input.value !== text || document.activeElement === input) return;
  if (meant) submit();
}

// What Gradio's own field does at Enter is the one way by which a model is asked for.
function submit() {
  unsettled = false;
  settled = field().value;
  delete field().dataset.draft;
  field().dispatchEvent(new KeyboardEvent('keypress', { key: 'Enter', bubbles: true, cancelable: true }));
}

function take(model) {
  const input = field();
  taking = true;
  input.value = model;
  input.dispatchEvent(new Event('input', { bubbles: true }));
  taking = unsettled = false;
  delete input.dataset.draft;
  close();
}

const KEYS = {
  ArrowDown: () => (list.hidden ? offer() : mark((active + 1) % shown.length)),
  ArrowUp: () => (list.hidden ? offer() : mark((active <= 0 ? shown.length : active) - 1)),
};

function equip(input) {
  if (!input || input.getAttribute('role') === 'combobox') return;
  const attributes = { role: 'combobox', 'aria-autocomplete': 'list', 'aria-controls': list.id, 'aria-expanded': 'false' };
  for (const [name, value] of Object.entries(attributes)) input.setAttribute(name, value);
  input.addEventListener('focus', () => {
    if (input.dataset.draft !== input.value) settled = input.value;
    else unsettled = true;
  });
  input.addEventListener('input', (event) => {
    if (taking) return;
    unsettled = true;
    pasted = /^insertFrom(Paste|Drop)/.test(event.inputType ?? '');
    mark(-1); // what was chosen among suggestions for another text is chosen no more
    suggest(input.value);
  });
  input.addEventListener('click', () => list.hidden && offer());
  input.addEventListener('keydown', (event) => {
    if (event.isComposing) return;
    if (event.key === 'Enter') {
      if (active >= 0) take(shown[active].id);
      unsettled = false;
      settled = input.value;
      delete input.dataset.draft;
      close();
    } else if (event.key === 'Escape' && !list.hidden) {
      event.preventDefault();
      close();
    } else if (KEYS[event.key]) {
      event.preventDefault();
      KEYS[event.key]();
    }
  }, true);
  input.addEventListener('blur', (event) => {
    const pressed = event.relatedTarget?.closest?.('#estimate, #model-chips'); // these ask by themselves
    if (unsettled && !pressed) leave(input);
    else close();
    unsettled = false;
  });
}

// It asks for what stands there; leaving another field, at the same press, asks for no other model then.
document.addEventListener('pointerdown', (event) => {
  if (event.target.closest?.('#estimate')) delete field().dataset.draft;
}, true);

list.addEventListener('mousedown', (event) => event.preventDefault()); // the field keeps the focus
list.addEventListener('click', (event) => {
  const item = event.target.closest('[role=option]');
  if (!item) return;
  take(item.dataset.model);
  submit();
});

// Both may come after this, and again.
new MutationObserver(() => {
  equip(field());
  const table = document.querySelector('#fit-table .qs-fit[data-asked]');
  if (table && table.dataset.asked !== recent[0]) remember(table.dataset.asked);
}).observe(document.querySelector('.gradio-container') ?? document.body, { childList: true, subtree: true });
equip(field());
