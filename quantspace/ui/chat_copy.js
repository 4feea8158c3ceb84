// What is copied from the chat is what was said, not the statistics beneath it: Gradio copies the whole message.
() => {
  const write = navigator.clipboard?.writeText.bind(navigator.clipboard);
  if (!write) return;
  navigator.clipboard.writeText = (text) => write(text.replace(/\n\n<small class='qs-stats'>[\s\S]*$/, ''));
}
