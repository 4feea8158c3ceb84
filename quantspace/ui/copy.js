// Copying from the page: each button with `data-copy` takes along what it stands for, and says so aloud.
const SAID_MS = 2500;
const said = document.createElement('div');
said.className = 'qs-unseen';
said.setAttribute('role', 'status');
(document.querySelector('main') ?? document.body).append(said);

function say(words) {
  said.textContent = '';
  requestAnimationFrame(() => { said.textContent = words; }); // the same words twice are said twice
}

// A frame may have no right to the clipboard, and a page over plain HTTP has none.
function copyBySelection(text) {
  const area = document.createElement('textarea');
  area.value = text;
  area.setAttribute('aria-hidden', 'true');
  area.style.cssText = 'position: fixed; opacity: 0';
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  return done;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

async function copy(text, button) {
  const done = await copied(text);
  button.focus();
  say(done ? button.dataset.copied ?? 'Copied.' : 'The browser does not allow copying.');
  if (!done) return void window.prompt('Copy this:', text);
  button.dataset.label ??= button.textContent;
  button.textContent = 'Copied ✓';
  setTimeout(() => { button.textContent = button.dataset.label; }, SAID_MS);
}

const COPIES = {
  code: (button) => button.closest('.qs-snippet').querySelector('code').textContent,
};

document.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-copy]');
  if (button) copy(COPIES[button.dataset.copy](button), button);
});
