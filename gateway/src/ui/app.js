// Small scripts of the gateway's pages. Everything that changes something asks the API, as a program would.
"use strict";
(() => {
  const page = document.getElementById("page")?.dataset ?? {};
  const words = JSON.parse(document.getElementById("words")?.textContent || "{}");
  const say = (key) => words[key] ?? key;

  /** Asks the API. Resolves with {ok, status, body, headers}; never throws for an answer. */
  async function ask(method, path, body, headers = {}) {
    const sent = { "X-CSRF-Token": page.csrf ?? "", Accept: "application/json", ...headers };
    if (body !== undefined) sent["Content-Type"] = "application/json";
    if (method === "POST") sent["Idempotency-Key"] ??= crypto.randomUUID ? crypto.randomUUID() : String(Math.random()).slice(2) + Date.now();
    let answer;
    try {
      answer = await fetch(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body), credentials: "same-origin" });
    } catch {
      return { ok: false, status: 0, body: { title: say("unreachable"), detail: say("unreachable-detail") }, headers: new Headers() };
    }
    let parsed = null;
    try { parsed = await answer.json(); } catch { /* no body, or none that is JSON */ }
    if (answer.status === 401 && parsed?.type === "urn:sluice:problem:signed-out") {
      location.href = "/sign-in?back=" + encodeURIComponent(location.pathname + location.search);
    }
    return { ok: answer.ok, status: answer.status, body: parsed, headers: answer.headers };
  }

  /** The fields of a form as JSON. `data-type` says what is no text; what is empty and not required is left out. */
  function fields(form) {
    const out = {};
    for (const field of form.elements) {
      if (!field.name || field.disabled) continue;
      if ((field.type === "radio" || field.type === "checkbox") && field.dataset.type !== "bool" && !field.checked) continue;
      let value = field.dataset.type === "bool" ? field.checked : field.value;
      if (value === "" && !field.required) continue;
      if (field.dataset.type === "number") value = Number(value);
      if (field.dataset.type === "list") {
        (out[field.name] ??= []).push(value);
        continue;
      }
      // `first.up` is the field `up` of the object `first`.
      const [outer, inner] = field.name.split(".");
      if (inner) (out[outer] ??= {})[inner] = value;
      else out[outer] = value;
    }
    return out;
  }

  function problem(form, body) {
    const place = form.querySelector(".problem") ?? form.appendChild(Object.assign(document.createElement("p"), { className: "problem" }));
    place.setAttribute("role", "alert");
    place.textContent = body ? `${say("problem:" + (body.type ?? "").split(":").pop()) || body.title}: ${body.detail ?? ""}` : "";
    if (body) form.dispatchEvent(new CustomEvent("sluice:problem", { bubbles: true, detail: body }));
  }

  async function send(form, button) {
    problem(form, null);
    if (form.dataset.confirm && !window.confirm(form.dataset.confirm)) return;
    const buttons = [...form.querySelectorAll("button")];
    buttons.forEach((b) => (b.disabled = true));
    const method = button?.dataset.method ?? form.dataset.method ?? "POST";
    let path = button?.dataset.api ?? form.dataset.api;
    const body = fields(form);
    // {name} in a path is a field of the form that does not travel in the body.
    path = path.replace(/\{(\w+)\}/g, (_, name) => {
      const value = body[name] ?? "";
      delete body[name];
      return encodeURIComponent(value);
    });
    const headers = form.dataset.etag ? (form.dataset.etag === "none" ? { "If-None-Match": "*" } : { "If-Match": form.dataset.etag }) : {};
    const answer = await ask(method, path, method === "GET" || form.dataset.empty !== undefined ? undefined : body, headers);
    buttons.forEach((b) => (b.disabled = false));
    if (!answer.ok) return problem(form, answer.body ?? { title: String(answer.status), detail: "" });
    form.dispatchEvent(new CustomEvent("sluice:done", { bubbles: true, detail: answer }));
    if (answer.status === 202 && answer.body?.state === "waiting") {
      return notice(form, `${say("waiting")} ${answer.body.approval}. ${answer.body.causes.join("; ")}`, "warn");
    }
    const then = form.dataset.then ?? "reload";
    if (then === "reload") location.reload();
    else if (then === "secret") showSecret(form, answer.body);
    else if (then === "job") location.href = "/jobs/" + answer.body.number;
    else if (then.startsWith("/")) location.href = then;
  }

  function notice(form, text, mood) {
    const place = form.querySelector(".said") ?? form.appendChild(Object.assign(document.createElement("p"), { className: "said" }));
    place.className = `said note ${mood}`;
    place.setAttribute("role", "status");
    place.textContent = text;
  }

  /** A secret is shown once, in a field that can be copied, and kept nowhere. */
  function showSecret(form, body) {
    const place = form.querySelector(".secret");
    const value = body.token ?? body.password ?? "";
    place.hidden = false;
    const field = place.querySelector("input, textarea");
    field.value = value;
    field.focus();
    field.select();
  }

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!(form instanceof HTMLFormElement) || !form.dataset.api) return;
    event.preventDefault();
    send(form, event.submitter);
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    const field = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(field.value ?? field.textContent);
      button.textContent = say("copied");
    } catch {
      field.select?.();
    }
  });

  // Filters apply as they are changed; without scripts there is a button.
  for (const form of document.querySelectorAll("form[data-live]")) {
    form.querySelector("button")?.classList.add("hidden");
    let timer;
    form.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => form.requestSubmit(), 350);
    });
  }

  /** Replaces what is marked `data-part` by what the server says now; focus, selection and scroll stay. */
  async function refresh(names) {
    const answer = await fetch(location.href, { credentials: "same-origin", headers: { "X-Parts": "1" } });
    if (!answer.ok || answer.redirected) return;
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const old of document.querySelectorAll("[data-part]")) {
      if (names && !names.includes(old.dataset.part)) continue;
      const now = fresh.querySelector(`[data-part="${CSS.escape(old.dataset.part)}"]`);
      if (!now) continue;
      for (const open of old.querySelectorAll("details[open][id]")) now.querySelector(`#${CSS.escape(open.id)}`)?.setAttribute("open", "");
      const selection = getSelection();
      if (selection && !selection.isCollapsed && old.contains(selection.anchorNode)) continue;
      if (old.innerHTML === now.innerHTML || old.contains(document.activeElement)) continue;
      const checked = new Set([...old.querySelectorAll("input:checked")].map((box) => box.value));
      old.innerHTML = now.innerHTML;
      for (const box of old.querySelectorAll("input[type=checkbox]")) box.checked = checked.has(box.value);
    }
  }

  // Events: the server says which sites look different; the page asks for its parts again.
  if (page.events !== undefined && window.EventSource) {
    const events = new EventSource("/api/v1/events");
    let waiting = false;
    events.addEventListener("sites", (event) => {
      const only = page.site;
      if (only && !JSON.parse(event.data).some((site) => `${site.tenant}/${site.site}` === only)) return;
      if (waiting || document.hidden) return;
      waiting = true;
      setTimeout(async () => {
        waiting = false;
        await refresh();
      }, 300);
    });
    window.addEventListener("pagehide", () => events.close());
  }

  // Jobs say how far they are until they are over.
  for (const place of document.querySelectorAll("[data-job]")) {
    const events = new EventSource(`/api/v1/jobs/${place.dataset.job}/events`);
    const over = () => {
      events.close();
      refresh();
    };
    events.addEventListener("job", (event) => {
      const job = JSON.parse(event.data);
      const bar = place.querySelector("progress");
      if (bar && job.total) {
        bar.max = job.total;
        bar.value = job.done;
      }
      const text = place.querySelector(".job-text");
      if (text) text.textContent = jobText(job);
      if (job.state !== "running") over();
    });
    events.onerror = over;
    window.addEventListener("pagehide", () => events.close());
  }

  function jobText(job) {
    const parts = [say("phase:" + job.phase)];
    if (job.total) parts.push(`${bytes(job.done)} / ${bytes(job.total)}`);
    if (job.rate) parts.push(`${bytes(job.rate)}/s`);
    if (job.seconds_left != null && job.state === "running") parts.push(`${say("left")} ${span(job.seconds_left)}`);
    return parts.filter(Boolean).join(" · ");
  }

  function bytes(count) {
    const units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let unit = 0;
    while (count >= 999.5 && unit + 1 < units.length) {
      count /= 1000;
      unit += 1;
    }
    return `${count.toFixed(unit > 0 && count < 99.95 ? 1 : 0)} ${units[unit]}`;
  }

  function span(seconds) {
    const names = [say("unit:h"), say("unit:min"), say("unit:s")];
    const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
    const first = parts.findIndex((part) => part > 0);
    return first < 0 ? `0 ${names[2]}` : parts.slice(first, first + 2).map((part, at) => `${part} ${names[first + at]}`).join(" ");
  }

  // Something for all the sites that are ticked, one after the other.
  const bulk = document.querySelector("form[data-bulk]");
  if (bulk) {
    const ticked = () => [...document.querySelectorAll("input[data-tick]:checked")].map((box) => box.value);
    const show = () => {
      const count = ticked().length;
      bulk.hidden = count === 0;
      bulk.querySelector("[data-count]").textContent = count;
    };
    document.addEventListener("change", (event) => {
      if (event.target.matches?.("input[data-tick-all]")) {
        for (const box of document.querySelectorAll("input[data-tick]")) box.checked = event.target.checked;
      }
      if (event.target.matches?.("input[data-tick], input[data-tick-all]")) show();
    });
    bulk.addEventListener("submit", async (event) => {
      event.preventDefault();
      problem(bulk, null);
      const wanted = fields(bulk);
      const sites = ticked();
      const failed = [];
      for (const [at, site] of sites.entries()) {
        notice(bulk, `${at + 1} / ${sites.length}`, "");
        const path = `/api/v1/sites/${site.split("/").map(encodeURIComponent).join("/")}/overrides`;
        const answer = await ask("POST", path, wanted);
        if (!answer.ok) failed.push(`${site}: ${answer.body?.detail ?? answer.status}`);
      }
      if (failed.length) problem(bulk, { type: "invalid", title: "", detail: failed.join(" · ") });
      else location.reload();
    });
    show();
  }

  // What a change costs, said while it is typed.
  for (const form of document.querySelectorAll("form[data-cost]")) {
    const place = form.querySelector(".cost");
    let timer;
    const look = () => {
      clearTimeout(timer);
      timer = setTimeout(async () => {
        const query = new URLSearchParams(fields(form));
        query.delete("reason");
        const answer = await fetch(form.dataset.cost + "?" + query, { credentials: "same-origin" });
        place.innerHTML = answer.ok ? await answer.text() : "";
      }, 250);
    };
    form.addEventListener("input", look);
    look();
  }

  for (const button of document.querySelectorAll("[data-print]")) button.addEventListener("click", () => window.print());

  window.sluice = { ask, fields, problem, notice, say, bytes, span, refresh };
})();
