// The comparison: files to keep. Gradio gives `element` and `server`.
const MISSING = 'This comparison is not at hand any more. Run it again.';

function note(words) {
  const line = document.createElement('p');
  line.className = 'qs-note';
  line.setAttribute('role', 'status');
  line.textContent = words;
  return line;
}

async function keep(button) {
  const place = button.closest('.qs-keep');
  place.querySelector('.qs-note')?.remove();
  button.disabled = true;
  const ticket = element.querySelector('.qs-comparison').dataset.ticket;
  const file = await server.file_of_comparison(ticket, button.dataset.keep).catch(() => null);
  button.disabled = false;
  if (file === null) return void place.lastElementChild.append(note(MISSING));
  place.open = false;
  place.querySelector('summary').focus();
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([file.text], { type: file.type }));
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

element.addEventListener('click', (event) => {
  const kept = event.target.closest('button[data-keep]');
  if (kept) keep(kept);
});

element.addEventListener('keydown', (event) => {
  const menu = event.target.closest('.qs-keep[open]');
  if (event.key !== 'Escape' || !menu) return;
  menu.open = false;
  menu.querySelector('summary').focus();
});

document.addEventListener('click', (event) => {
  const menu = element.querySelector('.qs-keep[open]');
  if (menu && !menu.contains(event.target)) menu.open = false;
});
