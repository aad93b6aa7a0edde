// Keeps the parts marked data-live fresh. Without it the page is the same, as of when it was loaded. Focus, scroll, what is typed and what is selected stay.
(() => {
  "use strict";
  const EVERY = 4000;
  const first = document.querySelector("[data-page]");
  if (!document.querySelector("[data-live]")) return;

  const find = (root, name) => [...root.querySelectorAll("[data-live]")].find((part) => part.dataset.live === name);
  const isBusy = (part) => {
    const selection = document.getSelection();
    const selects = selection && !selection.isCollapsed && selection.containsNode(part, true);
    return selects || part.contains(document.activeElement);
  };
  const stale = (is) => document.getElementById("stale")?.classList.toggle("hidden", !is);

  const refresh = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.pathname, { headers: { "x-sluice-refresh": "1" }, redirect: "manual", signal: AbortSignal.timeout(10000) });
      if (answer.type === "opaqueredirect") return location.reload();
      if (!answer.ok) throw new Error(String(answer.status));
      const next = new DOMParser().parseFromString(await answer.text(), "text/html");
      if (next.querySelector("[data-page]")?.dataset.page !== first.dataset.page) return location.reload();
      for (const part of document.querySelectorAll("[data-live]")) {
        const fresh = find(next, part.dataset.live);
        if (!fresh) continue;
        // Forms come and go with the work: only a whole page has the right ones.
        if (fresh.hasAttribute("data-working") !== part.hasAttribute("data-working")) return location.reload();
        if (fresh.innerHTML === part.innerHTML || isBusy(part)) continue;
        part.replaceChildren(...fresh.childNodes);
      }
      stale(false);
    } catch {
      stale(true);
    }
  };

  const loop = async () => {
    await refresh();
    setTimeout(loop, EVERY);
  };
  setTimeout(loop, EVERY);
  document.addEventListener("visibilitychange", refresh);

  // Who types a time means the choice beside it.
  for (const time of document.querySelectorAll("label.choice input[type=time]")) {
    const mean = () => { time.closest("label").querySelector("input[type=radio]").checked = true; };
    time.addEventListener("input", mean);
    time.addEventListener("focus", mean);
  }
})();
