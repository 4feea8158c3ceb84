// Fields that Gradio makes: a first click selects what is in them, so that typing replaces it, and a drop-down that is
// left without a choice shows what it showed before. Enter takes what is typed, a choice of the list or not.
() => {
  const SELECTED = '#model input, input[role=combobox]';
  const DROPDOWN = '.gradio-container input[role=combobox]:not(#model input, #engine-model input)';
  let fresh = null; // the field that the press under way has entered
  let entered = null; // what the focused drop-down showed when it was entered; null once something is taken

  const dropdown = (event) => (event.target.matches?.(DROPDOWN) ? event.target : null);

  function restore(field) {
    if (entered === null || field.value === entered) return;
    field.value = entered;
    field.dispatchEvent(new Event('input', { bubbles: true }));
  }

  document.addEventListener('pointerdown', (event) => {
    const field = event.target.closest?.(SELECTED);
    fresh = field && field !== document.activeElement ? field : null;
    if (event.target.closest?.('[role=option]')) entered = null; // chosen: Gradio writes it, then leaves the field
  }, true);
  document.addEventListener('click', (event) => {
    if (event.target === fresh && fresh.selectionStart === fresh.selectionEnd) fresh.select();
    fresh = null;
  }, true);
  document.addEventListener('focus', (event) => {
    const field = dropdown(event);
    if (field) entered = field.value;
  }, true);
  document.addEventListener('blur', (event) => {
    const field = dropdown(event);
    if (field) restore(field);
  }, true);
  document.addEventListener('keydown', (event) => {
    const field = dropdown(event);
    if (!field || event.isComposing) return;
    if (event.key === 'Enter') entered = null;
    if (event.key === 'Escape') {
      restore(field);
      field.select();
    }
    if (event.key !== 'Tab') return;
    event.stopPropagation(); // Gradio would open the list again after the field is left
    field.closest('.wrap')?.parentElement.querySelectorAll('[role=listbox]').forEach((list) => { list.tabIndex = -1; });
  }, true);
}
