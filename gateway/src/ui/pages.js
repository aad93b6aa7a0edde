// Small scripts of the pages of administration: local times, secrets as files, the wizard, long work.
"use strict";
(() => {
  const two = (number) => String(number).padStart(2, "0");

  /** Moments come as UTC, and are shown by the clock of whoever looks. */
  function localTimes() {
    for (const place of document.querySelectorAll("time[data-local]:not([data-shown])")) {
      const at = new Date(place.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      place.title = place.textContent;
      place.textContent = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${two(at.getHours())}:${two(at.getMinutes())}`;
      place.dataset.shown = "";
    }
  }
  localTimes();
  new MutationObserver(localTimes).observe(document.body, { childList: true, subtree: true });

  // What an answer says, in the words of the form: {name} is a field of the answer.
  document.addEventListener("sluice:done", (event) => {
    const form = event.target;
    const answer = event.detail.body ?? {};
    if (form.dataset.said) {
      window.sluice.notice(form, form.dataset.said.replace(/\{(\w+)\}/g, (_, name) => answer[name] ?? ""), "good");
    }
    if (form.dataset.welcome !== undefined) {
      const site = `${form.elements.tenant.value.trim()}/${form.elements.site.value.trim()}`;
      location.href = `/welcome?step=2&site=${encodeURIComponent(site)}#new`;
    }
    if (form.dataset.hides !== undefined) {
      for (const place of form.querySelectorAll("[data-before]")) place.hidden = true;
    }
  });

  // A form inside a form there is none: the first policy travels as an object of its own.
  const wizard = document.querySelector("form[data-welcome]");
  if (wizard) {
    const zone = wizard.querySelector("[data-browser-zone]");
    const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
    if (zone && here && here.includes("/") && zone.value === zone.defaultValue && zone.dataset.browserZone === "guess") zone.value = here;
  }

  // A secret as a file: made here, so that it is fetched and kept nowhere.
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-download]");
    if (!button) return;
    const text = document.getElementById(button.dataset.download).value + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = button.dataset.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

  // The wizard's second step asks for its token by itself when it is come to, and not when it is loaded again.
  const once = document.querySelector("form[data-once]");
  if (once && location.hash === "#new") {
    history.replaceState(null, "", location.pathname + location.search);
    once.requestSubmit();
  }

  // A large file travels as it is, and says how far it is; what becomes of it is a job.
  for (const form of document.querySelectorAll("form[data-upload]")) {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const { problem, say, bytes } = window.sluice;
      const file = form.querySelector("input[type=file]").files[0];
      if (!file) return;
      problem(form, null);
      const bar = form.querySelector("progress");
      const button = form.querySelector("button");
      const sent = new XMLHttpRequest();
      const failed = () => {
        button.disabled = false;
        bar.hidden = true;
        let body = null;
        try { body = JSON.parse(sent.responseText); } catch { /* no answer, or none that is JSON */ }
        problem(form, body ?? { title: say("unreachable"), detail: say("unreachable-detail") });
      };
      sent.upload.addEventListener("progress", (now) => {
        bar.max = now.total;
        bar.value = now.loaded;
        form.querySelector(".hint").textContent = `${say("sending")}: ${bytes(now.loaded)} / ${bytes(now.total)}`;
      });
      sent.addEventListener("load", () => {
        if (sent.status === 202) location.href = "/jobs/" + JSON.parse(sent.responseText).number;
        else failed();
      });
      sent.addEventListener("error", failed);
      sent.open("POST", form.dataset.upload);
      sent.setRequestHeader("X-CSRF-Token", document.getElementById("page").dataset.csrf ?? "");
      sent.setRequestHeader("Content-Type", "application/octet-stream");
      button.disabled = true;
      bar.hidden = false;
      sent.send(file);
    });
  }

  // Pages whose figures no event announces ask again, while somebody looks.
  const again = Number(document.querySelector("[data-again]")?.dataset.again ?? 0);
  if (again > 0) {
    setInterval(() => {
      if (!document.hidden) window.sluice.refresh();
    }, again * 1000);
  }

  // A choice of site or month leads to its page.
  for (const form of document.querySelectorAll("form[data-go]")) {
    form.addEventListener("change", () => form.requestSubmit());
  }
})();
