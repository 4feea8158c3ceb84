
(() => {
  const form = document.querySelector("form.ask");
  const heard = document.getElementById("heard");
  const wait = 350; // milliseconds after the last key
  let asking, timer;

  const tellHeight = () => {
    const height = Math.ceil(document.documentElement.getBoundingClientRect().height);
    if (parent !== window) parent.postMessage({ type: "quantspace:height", height }, "*");
  };
  new ResizeObserver(tellHeight).observe(document.documentElement);
  addEventListener("load", tellHeight);

  addEventListener("message", ({ source, data }) => {
    for (const frame of document.querySelectorAll("iframe.quantspace"))
      if (frame.contentWindow === source && data?.type === "quantspace:height") frame.style.height = `${Number(data.height)}px`;
  });

  const follow = (query) => {
    try {
      history.replaceState(null, "", location.pathname + (query && `?${query}`));
    } catch {} // a sandboxed frame has no address to change
  };

  const update = async () => {
    clearTimeout(timer);
    asking?.abort();
    const mine = (asking = new AbortController());
    const answer = document.getElementById("answer");
    answer.setAttribute("aria-busy", "true");
    const given = new URLSearchParams(new FormData(form));
    given.set("part", "answer");
    try {
      const said = await fetch(`${location.pathname}?${given}`, { signal: mine.signal, credentials: "omit" });
      const part = new DOMParser().parseFromString(await said.text(), "text/html").getElementById("answer");
      if (!part) throw new Error("not a page of ours");
      answer.replaceWith(part);
      follow(part.dataset.query);
      heard.textContent = (part.querySelector(".error") ?? part.querySelector(".headline"))?.textContent ?? "";
    } catch {
      if (mine.signal.aborted) return;
      answer.removeAttribute("aria-busy");
      heard.textContent = "No answer came. Try again in a moment.";
      heard.className = "error";
      return;
    }
    heard.className = "unseen";
  };

  form?.addEventListener("submit", (event) => (event.preventDefault(), update()));
  form?.addEventListener("change", update);
  form?.addEventListener("input", (event) => {
    clearTimeout(timer);
    if (event.target.matches("[inputmode=numeric], [type=color]")) timer = setTimeout(update, wait);
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("button[data-copies]");
    if (!button) return;
    const text = document.getElementById(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(text.textContent);
      heard.textContent = button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(text); // a frame may not write to the clipboard: one key is left to press
      heard.textContent = button.textContent = "Selected: copy it";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
})();
