// What is copied, edited and read aloud of the chat is what was said: Gradio takes the whole message, with the
// statistics beneath an answer and with the block that shows a question as it was typed (conversation.py).
() => {
  const STATS = /\n\n<small class='qs-stats'>[\s\S]*$/;
  const TYPED = /<div class='qs-typed'>([\s\S]*)<\/div>$/;
  const words = (text) => text.replace(STATS, '').replace(
    TYPED, (_, shown) => shown.replace(/&#(\d+);/g, (_, code) => String.fromCodePoint(code)),
  );

  const write = navigator.clipboard?.writeText.bind(navigator.clipboard);
  if (write) navigator.clipboard.writeText = (text) => write(words(text));

  const chat = document.getElementById('chatbot');
  function unwrap() {
    for (const edited of chat.querySelectorAll('textarea')) {
      if (!TYPED.test(edited.value)) continue;
      edited.value = words(edited.value);
      edited.dispatchEvent(new Event('input', { bubbles: true }));
    }
    for (const question of chat.querySelectorAll('[data-testid=user][aria-label]')) {
      if (TYPED.test(question.ariaLabel)) question.ariaLabel = words(question.ariaLabel);
    }
  }
  new MutationObserver(() => requestAnimationFrame(unwrap))
    .observe(chat, { childList: true, subtree: true, attributeFilter: ['aria-label'] });
}
