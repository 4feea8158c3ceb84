// The address bar and the form. An answer's query makes an entry of the history, what is being typed only changes the
// one there is; back and forward ask for what an entry stands for. Gradio gives `element`, `watch` and `trigger`.
const FIELDS = {
  model: '#model input', context: '#context input', batch: '#batch input', count: '#count input', ram: '#ram input',
  images: '#images input',
};
const ALWAYS = ['model', 'gpu', 'context']; // whatever they are: what an app opens with may be set otherwise
const ASKING = '#form-main, #form-workload, #model-chips, #ranking, #access, #finetune-form, #finetune-steps';
const GOING_MS = 50; // who goes back twice at once asks once
const TYPING_MS = 300; // browsers refuse more than about 100 changes in 30 s
const SECRET = /hf_[A-Za-z0-9]{30,}/;
const SPACES = 'https://huggingface.co';
const ANY = Symbol('whatever is answered');

let answered = null; // the query of the last answer, without the tab
let entry = null; // what the entry of the history stands for, and its address
let restoring = null; // what back or forward went to, until it is answered
let turned = false; // to another tab meanwhile
let drafted = false; // the address shows what is being typed
let typing = null;
let step = 0; // through the history, so that the app can tell which is the last
let going = null;

const told = () => element.querySelector('[data-query]').dataset;

function selectedTab() {
  return document.querySelector('#questions [role=tab][aria-selected=true]')?.dataset.tabId ?? 'run';
}

function withTab(query) {
  const tab = selectedTab();
  return tab === 'run' ? query : `${query}${query && '&'}tab=${tab}`;
}

const withoutTab = (query) => query.replace(/(^|&)tab=[^&]*$/, '');

// Gradio's own parameters, such as the theme, stay; they are no part of a link that is given away.
function url(query) {
  const theirs = location.search.slice(1).split('&').filter((pair) => pair.startsWith('__'));
  const search = [...theirs, query].filter(Boolean).join('&');
  return `${location.pathname}${search ? `?${search}` : ''}${location.hash}`;
}

function write(how, query, address = url(query)) {
  try {
    history[how]({ ...history.state, quantspace: query }, '', address);
  } catch { /* too many changes, or a frame without a history of its own: the button still copies */ }
}

// On a Space the page stands in a frame; huggingface.co takes such a message for its own address bar.
function tellParent(query) {
  if (window.parent === window) return;
  const above = location.ancestorOrigins;
  if (above && ![...above].includes(SPACES)) return;
  try {
    window.parent.postMessage({ queryString: query, hash: '' }, SPACES);
  } catch { /* nobody there who could follow */ }
}

function settle() {
  let query = withTab(answered);
  if (entry === null) {
    write('replaceState', query, turned ? url(query) : location.href); // as it was asked for, in whatever spelling
    turned = false;
  } else if (restoring !== null) {
    if (restoring !== ANY && withoutTab(restoring) !== answered) return; // an answer to a question before
    if (restoring !== ANY) query = restoring; // its tab may not be drawn yet
    restoring = null;
    write('replaceState', query);
  } else if (query === entry.query) {
    if (drafted) write('replaceState', query);
  } else {
    if (drafted) write('replaceState', entry.query, entry.address);
    write('pushState', query);
  }
  if (entry !== null) tellParent(query);
  clearTimeout(typing);
  drafted = false;
  entry = { query, address: location.href };
  if (turned) {
    turned = false;
    settle();
  }
}

function draft() {
  if (entry === null) return;
  const { defaults } = told();
  const preset = JSON.parse(defaults);
  const pairs = new Map(answered.split('&').filter(Boolean).map((pair) => pair.split('=')));
  for (const [name, selector] of Object.entries(FIELDS)) {
    const value = document.querySelector(selector)?.value.trim() ?? '';
    const readable = encodeURIComponent(value).replace(/%(2F|3A|40|2C)/g, decodeURIComponent);
    if (value && (ALWAYS.includes(name) || value !== preset[name])) pairs.set(name, readable);
    else pairs.delete(name);
  }
  const query = withTab([...pairs].map((pair) => pair.join('=')).join('&'));
  if (SECRET.test(query)) return;
  drafted = true;
  try {
    history.replaceState(history.state, '', url(query));
  } catch { /* as above */ }
  tellParent(query);
}

function link(row) {
  const base = told().base || location.origin + location.pathname.replace(/\/$/, '');
  if (!row) return `${base}/?${withTab(answered)}`;
  const others = answered.split('&').filter((pair) => !pair.startsWith('precision='));
  return `${base}/?${[...others, `precision=${encodeURIComponent(row)}`].join('&')}`;
}

// The builder of embeds begins with what is asked here.
for (const kind of ['pointerdown', 'focusin']) {
  document.addEventListener(kind, (event) => {
    const builder = event.target.closest?.('a[href*="/embed/builder"]');
    if (!builder || answered === null) return;
    builder.href = `${builder.href.split('?')[0]}?${answered}`;
  }, true);
}

COPIES.link = (button) => link(button.dataset.row);

watch('value', () => {
  const { query } = told();
  if (!query) return;
  answered = query;
  setTimeout(settle); // a link's tab is drawn with its answer
});

for (const kind of ['input', 'click', 'keydown']) {
  document.addEventListener(kind, (event) => {
    if (!event.target.closest?.(ASKING)) return;
    restoring = null; // what somebody does now is a question of its own
    if (kind !== 'input') return;
    clearTimeout(typing);
    if (Object.values(FIELDS).some((selector) => event.target.matches(selector))) typing = setTimeout(draft, TYPING_MS);
  }, true);
}

document.addEventListener('click', (event) => {
  if (!event.target.closest?.('#questions [role=tab]')) return;
  setTimeout(() => { // after Gradio has changed the tab
    if (answered === null || restoring !== null) turned = true;
    else settle();
  });
});

window.addEventListener('popstate', (event) => {
  const asked = event.state?.quantspace;
  clearTimeout(typing);
  drafted = false;
  restoring = asked ?? ANY;
  turned = false;
  entry = { query: asked ?? '', address: location.href };
  const query = asked ?? location.search.slice(1);
  tellParent(query);
  clearTimeout(going);
  step += 1;
  going = setTimeout(() => trigger('click', { query, step }), GOING_MS);
});
