// The comparison: files to keep, which `keep.js` hands over. Gradio gives `element` and `server`.
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-keep]');
  if (!button) return;
  const { ticket } = element.querySelector('.qs-comparison').dataset;
  const file = server.file_of_comparison(ticket, button.dataset.keep);
  const missing = 'This comparison is not at hand any more. Run it again.';
  button.dispatchEvent(new CustomEvent('quantspace-keep', { bubbles: true, detail: { file, missing } }));
});
