// Menus of files to keep. A button's own component asks the app for the file: it sends `quantspace-keep` with `file`,
// a promise of it, and with `missing`, what to say where it is not at hand any more.
const MENU = '.qs-keep';
const KEPT_MS = 60_000; // until a browser has surely begun to write a file

function close(menu) {
  menu.open = false;
  menu.querySelector('summary').focus();
}

function contentOf(file) {
  return file.base64 ? Uint8Array.from(atob(file.base64), (letter) => letter.charCodeAt(0)) : file.text;
}

function download(file) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([contentOf(file)], { type: file.type }));
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
}

document.addEventListener('quantspace-keep', async ({ target: button, detail }) => {
  const menu = button.closest(MENU);
  menu.querySelector('.qs-note')?.remove();
  button.disabled = true;
  const file = await detail.file.catch(() => null);
  button.disabled = false;
  if (file === null) {
    const note = document.createElement('p');
    note.className = 'qs-note';
    note.setAttribute('role', 'status');
    note.textContent = detail.missing;
    return void menu.lastElementChild.append(note);
  }
  close(menu);
  download(file);
});

document.addEventListener('keydown', (event) => {
  const menu = event.target.closest?.(`${MENU}[open]`);
  if (event.key === 'Escape' && menu) close(menu);
});

document.addEventListener('click', (event) => {
  for (const menu of document.querySelectorAll(`${MENU}[open]`)) if (!menu.contains(event.target)) menu.open = false;
});
