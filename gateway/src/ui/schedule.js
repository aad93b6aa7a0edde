// The editor of schedules. It keeps what a person paints, and asks the API what that means: no rule of policies is known here.
"use strict";
(() => {
  const given = JSON.parse(document.getElementById("given")?.textContent || "null");
  if (!given) return;
  const { ask, bytes, problem, notice, refresh } = window.sluice;
  const by = (id) => document.getElementById(id);
  const CELLS = 96;
  const DAYS = 7;
  /** Steps back that are kept. */
  const MOST_STEPS = 200;

  /** A word, with what is put in for each `{}`. */
  const say = (key, ...parts) => (given.words[key] ?? key).replace(/\{\}/g, () => parts.shift() ?? "");
  const announce = (text) => { by("announced").textContent = text; };
  const clock = (cell) => `${String(Math.floor(cell / 4)).padStart(2, "0")}:${String((cell % 4) * 15).padStart(2, "0")}`;
  const copy = (value) => structuredClone(value);

  /** An element with attributes, properties for what begins with a dot, and children. */
  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === false || value == null) continue;
      if (key.startsWith(".")) element[key.slice(1)] = value;
      else element.setAttribute(key, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child != null));
    return element;
  }

  // ---- what is worked on

  /** The text that edits are put into, and the schedule that is edited; the text with them in it is made by the API. */
  let work = null;
  let past = [];
  let future = [];
  /** What the text says with the edits in it. */
  let text = given.document ?? "";
  /** The last answer, and the last one of a document without mistakes. */
  let answer = null;
  let good = null;
  let version = given.version;
  let dirty = false;
  /** The text was typed and cannot be read: painting waits. */
  let stale = false;
  let brush = 1;
  let grain = 2;
  let serial = 0;
  let timer = 0;

  /** Changes the schedule; can be taken back. */
  function change(edit) {
    if (!given.may || stale || !work) return false;
    const before = copy(work);
    edit(work.schedule);
    if (JSON.stringify(before) === JSON.stringify(work)) return false;
    remember(before);
    touched();
    return true;
  }

  function remember(before) {
    past.push(before);
    if (past.length > MOST_STEPS) past.shift();
    future = [];
  }

  function touched() {
    dirty = true;
    draw();
    later();
  }

  function step(from, to, word) {
    if (!from.length) return;
    to.push(copy(work));
    work = from.pop();
    stale = false;
    dirty = true;
    draw();
    later(0);
    announce(say(word));
  }
  const undo = () => {
    if (stale) { // what was typed and cannot be read goes first
      stale = false;
      draw();
      later(0);
      announce(say("undone"));
    } else step(past, future, "undone");
  };
  const redo = () => step(future, past, "redone");

  /** Asks what the schedule means, once nothing was changed for a moment. */
  function later(wait = 300) {
    clearTimeout(timer);
    serial += 1;
    by("preview-state").textContent = say("checking");
    timer = setTimeout(() => look(), wait);
  }

  async function look(typed) {
    const number = ++serial;
    const asked = { site: given.site };
    if (typed !== undefined) asked.document = typed;
    else {
      if (work.base !== null) asked.document = work.base;
      asked.edit = work.schedule;
    }
    const said = await ask("POST", "/api/v1/policy/draft", asked);
    if (number !== serial) return; // something was changed meanwhile
    if (!said.ok) {
      by("preview-state").textContent = "";
      return showProblems([{ detail: said.body?.detail ?? String(said.status) }]);
    }
    answer = said.body;
    if (typed !== undefined) {
      stale = !answer.schedule;
      text = typed;
      if (answer.schedule) {
        if (work) remember(copy(work));
        work = { base: typed, schedule: answer.schedule };
      }
    } else {
      text = answer.document;
      if (document.activeElement !== by("document") || !stale) by("document").value = text;
    }
    if (!answer.problems.length) good = answer;
    draw();
  }

  // ---- drawing

  function draw() {
    by("undo").disabled = !given.may || (!past.length && !stale);
    by("redo").disabled = !given.may || !future.length;
    if (!work) return;
    drawPalette();
    drawGrid();
    drawProfiles();
    drawLine();
    drawRules();
    drawMonths();
    drawPreview();
    drawText();
    drawSaving();
  }

  const profiles = () => work.schedule.profiles;
  const look_of = (number) => `p${number === 0 ? 0 : ((number - 1) % 7) + 1}`;
  const named = (number) => (number === 0 ? say("closed") : profiles()[number]?.name ?? "?");

  /** A sign for each profile: the first letter of its name that is free. */
  function signs() {
    const taken = ["·"];
    for (const profile of profiles().slice(1)) {
      const own = [...profile.name.toLowerCase(), ...profile.name.toUpperCase(), ..."abcdefghijklmnopqrstuvwxyz"];
      taken.push(own.find((sign) => /[a-z0-9]/i.test(sign) && !taken.includes(sign)) ?? "?");
    }
    return taken;
  }

  /** What a profile comes to, as the API said of it. */
  const rate_of = (profile) => good?.preview?.legend.find((entry) => entry.name === profile.name)?.rate ?? "";

  function drawPalette() {
    if (brush >= profiles().length) brush = 0;
    const all = signs();
    const keep = by("palette").contains(document.activeElement);
    by("palette").replaceChildren(...profiles().map((profile, number) =>
      make("button", { type: "button", class: "brush", role: "radio", "aria-checked": String(number === brush), tabindex: number === brush ? 0 : -1, "data-brush": number },
        make("i", { class: `swatch ${look_of(number)}`, "aria-hidden": "true" }, number ? all[number] : ""),
        named(number), make("small", {}, number ? rate_of(profile) || profile.up : ""))));
    if (keep) by("palette").querySelector("[aria-checked=true]")?.focus();
    for (const select of document.querySelectorAll("select.profiles-of")) {
      const was = select.value;
      select.replaceChildren(...profiles().map((profile, number) => make("option", { value: profile.name }, named(number))));
      select.value = profiles().some((profile) => profile.name === was) ? was : profiles()[Math.min(brush, profiles().length - 1)].name;
    }
  }

  function choose(number) {
    brush = number;
    drawPalette();
    announce(say("chosen", named(number)));
  }

  by("palette").addEventListener("click", (event) => {
    const button = event.target.closest("[data-brush]");
    if (button) choose(Number(button.dataset.brush));
  });
  by("palette").addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!move) return;
    event.preventDefault();
    choose((brush + move + profiles().length) % profiles().length);
    by("palette").querySelector("[aria-checked=true]").focus();
  });

  // ---- the grid

  const grid = by("grid");
  /** Where the cursor is and where the selection began: day and quarter of an hour. */
  let cursor = { day: 0, at: 0 };
  let anchor = null;
  let dragged = false;

  const snap = (at) => Math.floor(at / grain) * grain;

  function buildGrid() {
    grid.className = `grid g${grain * 15}`;
    const corner = make("span", { role: "gridcell", class: "corner" });
    const hours = Array.from({ length: 24 }, (_, hour) =>
      make("span", { role: "columnheader", class: "head" },
        make("button", { type: "button", class: "hour", tabindex: -1, "data-hour": hour, disabled: !given.may }, String(hour), make("span", { class: "sr" }, `:00 ${say("every-day")}`))));
    const rows = given.days.map((name, day) => {
      const cells = [];
      for (let at = 0; at < CELLS; at += grain) {
        const quarters = Array.from({ length: grain }, () => make("i"));
        cells.push(make("div", { role: "gridcell", class: at % 4 === 0 ? "cell full" : "cell", tabindex: -1, "data-day": day, "data-at": at }, ...quarters));
      }
      const label = make("span", { role: "rowheader", class: "head" },
        make("button", { type: "button", class: "day", tabindex: -1, "data-row": day, disabled: !given.may, "aria-label": `${name} ${say("all-day")}` }, name));
      return make("div", { role: "row", class: "grid-row" }, label, ...cells);
    });
    grid.replaceChildren(make("div", { role: "row", class: "grid-row" }, corner, ...hours), ...rows);
  }

  const cellAt = (day, at) => grid.querySelector(`[data-day="${day}"][data-at="${snap(at)}"]`);

  function drawGrid() {
    if (!grid.firstChild || !grid.classList.contains(`g${grain * 15}`)) buildGrid();
    by("stale").hidden = !stale;
    grid.classList.toggle("off", stale || !given.may);
    const all = signs();
    for (const cell of grid.querySelectorAll(".cell")) {
      const day = Number(cell.dataset.day);
      const at = Number(cell.dataset.at);
      const row = work.schedule.grid[day];
      let mixed = false;
      for (let quarter = 0; quarter < grain; quarter += 1) {
        const number = row[at + quarter];
        const before = at + quarter > 0 ? row[at + quarter - 1] : -1;
        mixed ||= number !== row[at];
        const part = cell.children[quarter];
        part.className = look_of(number);
        if (number !== before && number !== 0) part.dataset.sign = all[number];
        else delete part.dataset.sign;
      }
      cell.setAttribute("aria-label", `${given.days[day]} ${clock(at)} ${mixed ? say("mixed") : named(row[at])}`);
    }
    drawSelection();
  }

  /** The rectangle between anchor and cursor. */
  function selection() {
    const from = anchor ?? cursor;
    const [first, last] = [Math.min(from.at, cursor.at), Math.max(from.at, cursor.at)].map(snap);
    return { days: [Math.min(from.day, cursor.day), Math.max(from.day, cursor.day)], cells: [first, last + grain] };
  }

  function drawSelection() {
    const { days, cells } = selection();
    for (const cell of grid.querySelectorAll(".cell")) {
      const [day, at] = [Number(cell.dataset.day), Number(cell.dataset.at)];
      const inside = anchor !== null && days[0] <= day && day <= days[1] && cells[0] <= at && at < cells[1];
      cell.setAttribute("aria-selected", String(inside));
      cell.tabIndex = cursor.day === day && snap(cursor.at) === at ? 0 : -1;
    }
  }

  function span_text({ days, cells }) {
    const names = days[0] === days[1] ? given.days[days[0]] : `${given.days[days[0]]}–${given.days[days[1]]}`;
    return `${names} ${clock(cells[0])}–${clock(cells[1])}`;
  }

  function paint(area, number = brush) {
    const done = change((schedule) => {
      for (let day = area.days[0]; day <= area.days[1]; day += 1) schedule.grid[day].fill(number, area.cells[0], area.cells[1]);
    });
    if (done) announce(say("painted", span_text(area), named(number)));
    return done;
  }

  function readout(area) {
    by("readout").textContent = area ? `${span_text(area)} · ${named(brush)}` : "\u00a0";
  }

  grid.addEventListener("pointerdown", (event) => {
    const cell = event.target.closest(".cell");
    if (!cell || event.button !== 0 || stale) return;
    cursor = { day: Number(cell.dataset.day), at: Number(cell.dataset.at) };
    anchor = event.shiftKey && anchor ? anchor : { ...cursor };
    dragged = true;
    if (event.pointerType === "mouse") event.preventDefault();
    cell.focus({ preventScroll: true });
    try { grid.setPointerCapture(event.pointerId); } catch { /* the pointer is gone */ }
    drawSelection();
    readout(selection());
  });
  grid.addEventListener("pointermove", (event) => {
    const under = document.elementFromPoint(event.clientX, event.clientY)?.closest?.("#grid .cell");
    if (!dragged) {
      if (under && event.pointerType === "mouse") {
        const [day, at] = [Number(under.dataset.day), Number(under.dataset.at)];
        const number = work.schedule.grid[day][at];
        by("readout").textContent = `${given.days[day]} ${clock(at)} · ${named(number)}`;
      }
      return;
    }
    if (!under) return;
    const next = { day: Number(under.dataset.day), at: Number(under.dataset.at) };
    if (next.day === cursor.day && next.at === cursor.at) return;
    cursor = next;
    drawSelection();
    readout(selection());
  });
  grid.addEventListener("pointerup", () => {
    if (!dragged) return;
    dragged = false;
    const area = selection();
    anchor = null;
    if (!paint(area)) drawSelection();
    cellAt(cursor.day, cursor.at)?.focus({ preventScroll: true });
  });
  grid.addEventListener("pointercancel", () => {
    dragged = false;
    anchor = null;
    drawSelection();
    readout(null);
  });
  grid.addEventListener("pointerleave", () => dragged || readout(null));
  grid.addEventListener("click", (event) => {
    const { row, hour } = event.target.closest("[data-row], [data-hour]")?.dataset ?? {};
    if (row !== undefined) paint({ days: [Number(row), Number(row)], cells: [0, CELLS] });
    if (hour !== undefined) paint({ days: [0, DAYS - 1], cells: [Number(hour) * 4, Number(hour) * 4 + 4] });
  });

  grid.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !event.target.closest(".cell")) return;
    const moves = { ArrowLeft: [0, -grain], ArrowRight: [0, grain], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    const ends = { Home: 0, End: CELLS - grain };
    if (moves[event.key] || event.key in ends) {
      event.preventDefault();
      if (event.shiftKey) anchor ??= { ...cursor };
      else anchor = null;
      if (event.key in ends) cursor = { day: cursor.day, at: ends[event.key] };
      else {
        const [days, cells] = moves[event.key];
        cursor = { day: Math.min(DAYS - 1, Math.max(0, cursor.day + days)), at: Math.min(CELLS - grain, Math.max(0, snap(cursor.at) + cells)) };
      }
      drawSelection();
      readout(selection());
      cellAt(cursor.day, cursor.at).focus();
      return;
    }
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      const area = selection();
      anchor = null;
      paint(area);
      drawSelection();
      cellAt(cursor.day, cursor.at).focus();
    } else if (event.key === "Escape") {
      anchor = null;
      drawSelection();
    } else if (event.key.length === 1) {
      const number = /^[0-9]$/.test(event.key) ? Number(event.key) : signs().indexOf(event.key);
      if (number >= 0 && number < profiles().length) {
        event.preventDefault();
        choose(number);
      }
    }
  });

  for (const radio of document.querySelectorAll("input[name=grain]")) {
    radio.addEventListener("change", () => {
      grain = Number(radio.value) / 15;
      cursor = { day: cursor.day, at: snap(cursor.at) };
      anchor = null;
      if (work) drawGrid();
    });
  }

  const cell_of = (time) => {
    const [hours, minutes] = time.split(":").map(Number);
    return Math.min(CELLS, hours * 4 + minutes / 15);
  };
  by("paint-times").addEventListener("submit", (event) => {
    event.preventDefault();
    const form = event.target;
    const days = [...form.querySelectorAll("[name=day]:checked")].map((box) => Number(box.value));
    const [from, to] = [cell_of(form.elements.from.value), cell_of(form.elements.to.value)];
    const number = profiles().findIndex((profile) => profile.name === form.elements.profile.value);
    const done = change((schedule) => {
      for (const day of days) {
        if (from < to) schedule.grid[day].fill(number, from, to);
        else {
          schedule.grid[day].fill(number, from, CELLS);
          schedule.grid[(day + 1) % DAYS].fill(number, 0, to);
        }
      }
    });
    if (done) announce(say("painted", `${days.map((day) => given.days[day]).join(" ")} ${clock(from)}–${clock(to)}`, named(number)));
  });
  by("copy-day").addEventListener("submit", (event) => {
    event.preventDefault();
    const from = Number(event.target.elements.from.value);
    const days = [...event.target.querySelectorAll("[name=day]:checked")].map((box) => Number(box.value));
    change((schedule) => days.forEach((day) => { schedule.grid[day] = [...schedule.grid[from]]; }));
  });

  /** A preset's rows, as `00:00 night 07:30 closed`, with the profiles that they need. */
  function preset(schedule, key) {
    const found = given.presets.find((entry) => entry.key === key);
    for (const [name, share] of found.profiles) {
      if (!schedule.profiles.some((profile) => profile.name === name)) schedule.profiles.push({ name, up: share, down: share });
    }
    const number = (name) => schedule.profiles.findIndex((profile) => profile.name === name);
    schedule.grid = found.rows.map((row) => {
      const cells = new Array(CELLS).fill(0);
      const parts = row.split(" ");
      for (let at = 0; at < parts.length; at += 2) cells.fill(number(parts[at + 1]), cell_of(parts[at]));
      return cells;
    });
  }
  for (const button of document.querySelectorAll("[data-preset]")) {
    button.addEventListener("click", () => change((schedule) => preset(schedule, button.dataset.preset)));
  }

  // ---- profiles and the line

  /** A field of a list that is drawn anew on each change, unless somebody is in it. */
  function field(label, value, set, more = {}) {
    const input = make("input", { ".value": value, maxlength: 100, disabled: !given.may, "aria-label": label, ...more });
    input.addEventListener("change", () => set(input.value.trim()));
    return make("div", { class: "field" }, make("span", { class: "small soft", "aria-hidden": "true" }, label), input);
  }

  function choice(label, options, value, set) {
    const select = make("select", { "aria-label": label, disabled: !given.may }, ...options.map(([key, name]) => make("option", { value: key }, name)));
    select.value = value;
    select.addEventListener("change", () => set(select.value));
    return make("div", { class: "field" }, make("span", { class: "small soft", "aria-hidden": "true" }, label), select);
  }

  function remover(what, remove) {
    const button = make("button", { type: "button", class: "plain", disabled: !given.may, "aria-label": `${say("remove")} ${what}` }, say("remove"));
    button.addEventListener("click", remove);
    return button;
  }

  /** Draws a list anew and leaves the focus where it was. */
  function redraw(place, ...rows) {
    const fields = () => [...place.querySelectorAll("input, select, button")];
    const at = fields().indexOf(document.activeElement);
    place.replaceChildren(...rows);
    if (at >= 0) fields()[Math.min(at, fields().length - 1)]?.focus();
  }

  function drawProfiles() {
    const all = signs();
    redraw(by("profile-rows"), ...profiles().map((profile, number) => {
      const swatch = make("i", { class: `swatch ${look_of(number)}`, "aria-hidden": "true" }, number ? all[number] : "");
      if (number === 0) return make("div", { class: "rule-row" }, swatch, make("strong", {}, say("closed")), make("span", { class: "soft" }, say("always-closed")));
      return make("div", { class: "rule-row" }, swatch,
        field(say("name"), profile.name, (value) => change((schedule) => rename(schedule, number, value)), { maxlength: 32 }),
        field(say("up"), profile.up, (value) => change((schedule) => { const own = schedule.profiles[number]; if (own.down === own.up) own.down = value; own.up = value; })),
        field(say("down"), profile.down, (value) => change((schedule) => { schedule.profiles[number].down = value; })),
        make("span", { class: "small soft rate" }, rate_of(profile)),
        remover(profile.name, () => change((schedule) => drop(schedule, number))));
    }));
  }

  function rename(schedule, number, name) {
    const profile = schedule.profiles[number];
    if (!name || schedule.profiles.some((other) => other !== profile && other.name === name)) return;
    for (const rule of schedule.exceptions) if (rule.profile === profile.name) rule.profile = name;
    profile.was ??= profile.name;
    profile.name = name;
    if (profile.was === name) delete profile.was;
  }

  function drop(schedule, number) {
    const [gone] = schedule.profiles.splice(number, 1);
    for (const row of schedule.grid) row.forEach((cell, at) => { row[at] = cell === number ? 0 : cell - Number(cell > number); });
    for (const rule of schedule.exceptions) if (rule.profile === gone.name) rule.profile = "closed";
  }

  by("add-profile-row").disabled = !given.may;
  by("add-profile-row").addEventListener("click", () => {
    change((schedule) => {
      let name = "profile";
      for (let number = 2; schedule.profiles.some((profile) => profile.name === name); number += 1) name = `profile-${number}`;
      schedule.profiles.push({ name, up: "50 %", down: "50 %" });
    });
    const rows = by("profile-rows").querySelectorAll(".rule-row");
    rows[rows.length - 1]?.querySelector("input")?.select();
  });

  function drawLine() {
    for (const input of document.querySelectorAll("[data-line]")) {
      const key = input.dataset.line;
      if (document.activeElement !== input) input.value = key === "zone" ? work.schedule.zone : work.schedule.line[key];
      input.disabled = !given.may;
    }
  }
  for (const input of document.querySelectorAll("[data-line]")) {
    input.addEventListener("change", () => change((schedule) => {
      const [key, value] = [input.dataset.line, input.value.trim()];
      if (key === "zone") schedule.zone = value;
      else {
        if (key === "up" && schedule.line.down === schedule.line.up) schedule.line.down = value;
        schedule.line[key] = value;
      }
    }));
  }

  // ---- the calendar

  const months = by("months");
  /** First and last day of the selection, as dates in text. */
  let picked = null;
  let picking = false;
  let day_cursor = null;

  const iso = (date) => date.toISOString().slice(0, 10);
  const date_of = (text) => new Date(`${text}T00:00:00Z`);
  const plus = (text, days) => {
    const date = date_of(text);
    date.setUTCDate(date.getUTCDate() + days);
    return iso(date);
  };

  function drawMonths() {
    if (!good?.preview || by("panel-dates").hidden) return;
    const today = good.preview.days[0].date;
    const special = new Map(good.calendar.map((day) => [day.date, day]));
    const { exceptions, blackouts } = good.schedule;
    day_cursor ??= today;
    const keep = months.contains(document.activeElement);
    const boxes = [];
    for (let ahead = 0; ahead < 12; ahead += 1) {
      const first = new Date(Date.UTC(Number(today.slice(0, 4)), Number(today.slice(5, 7)) - 1 + ahead, 1));
      const days = new Date(Date.UTC(first.getUTCFullYear(), first.getUTCMonth() + 1, 0)).getUTCDate();
      const cells = Array.from({ length: (first.getUTCDay() + 6) % 7 }, () => make("span"));
      for (let number = 0; number < days; number += 1) {
        const date = plus(iso(first), number);
        const found = special.get(date);
        const said = [];
        const classes = ["date"];
        if (found?.off !== undefined) { classes.push("off"); said.push(found.off || say("days-off")); }
        if (found?.working) { classes.push("work"); said.push(say("working-days")); }
        for (const at of found?.exceptions ?? []) { classes.push("exc"); said.push(exceptions[at]?.name); }
        for (const at of found?.blackouts ?? []) { classes.push("bar"); said.push(blackouts[at]?.name); }
        if (date === today) { classes.push("today"); said.push(say("today")); }
        if (picked && picked.from <= date && date <= picked.to) classes.push("picked");
        cells.push(make("button", { type: "button", class: classes.join(" "), "data-date": date, tabindex: date === day_cursor ? 0 : -1, title: said.join(", "), "aria-label": [date, ...said].join(", "), "aria-pressed": String(classes.includes("picked")) }, String(number + 1)));
      }
      const name = new Intl.DateTimeFormat(given.locale, { month: "long", year: "numeric", timeZone: "UTC" }).format(first);
      const heads = given.days.map((day) => make("span", { class: "head", "aria-hidden": "true" }, [...day].slice(-1)[0].length && given.locale !== "en" ? [...day].slice(-1)[0] : day.slice(0, 2)));
      boxes.push(make("div", { class: "month", role: "group", "aria-label": name }, make("h3", {}, name), make("div", { class: "month-days" }, ...heads, ...cells)));
    }
    months.replaceChildren(...boxes);
    if (keep) months.querySelector(`[data-date="${day_cursor}"]`)?.focus();
  }

  function pick(from, to) {
    picked = from <= to ? { from, to } : { from: to, to: from };
    by("add-when").value = picked.from === picked.to ? picked.from : `${picked.from}..${picked.to}`;
    for (const day of months.querySelectorAll("[data-date]")) {
      const inside = picked.from <= day.dataset.date && day.dataset.date <= picked.to;
      day.classList.toggle("picked", inside);
      day.setAttribute("aria-pressed", String(inside));
      day.tabIndex = day.dataset.date === day_cursor ? 0 : -1;
    }
  }
  let pick_from = null;
  months.addEventListener("pointerdown", (event) => {
    const day = event.target.closest("[data-date]");
    if (!day || event.button !== 0 || event.pointerType === "touch") return;
    picking = true;
    day_cursor = day.dataset.date;
    if (!event.shiftKey || !pick_from) pick_from = day_cursor;
    pick(pick_from, day_cursor);
  });
  // A finger scrolls: it picks by a touch, and a range by a second touch on a later day.
  months.addEventListener("click", (event) => {
    const day = event.target.closest("[data-date]");
    if (!day || event.pointerType !== "touch") return;
    day_cursor = day.dataset.date;
    if (!picked || picked.from !== picked.to || day_cursor < picked.from) pick_from = day_cursor;
    pick(pick_from, day_cursor);
  });
  months.addEventListener("pointermove", (event) => {
    if (!picking) return;
    const day = document.elementFromPoint(event.clientX, event.clientY)?.closest?.("#months [data-date]");
    if (!day || day.dataset.date === day_cursor) return;
    day_cursor = day.dataset.date;
    pick(pick_from, day_cursor);
  });
  window.addEventListener("pointerup", () => { picking = false; });
  window.addEventListener("pointercancel", () => { picking = false; });
  months.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -7, ArrowDown: 7 }[event.key];
    if (event.key === "Enter") {
      event.preventDefault();
      pick(pick_from ?? day_cursor, day_cursor);
      by("add-name").focus();
    }
    if (!move || !day_cursor) return;
    event.preventDefault();
    const next = plus(day_cursor, move);
    const button = months.querySelector(`[data-date="${next}"]`);
    if (!button) return;
    day_cursor = next;
    if (!event.shiftKey || !pick_from) pick_from = next;
    pick(pick_from, next);
    button.focus();
  });

  by("add-kind").addEventListener("change", kinds);
  function kinds() {
    const kind = by("add-kind").value;
    by("add-dates").querySelector(".for-rule").hidden = kind === "off" || kind === "working";
    by("add-dates").querySelector(".for-exception").hidden = kind !== "exception";
  }
  kinds();

  by("add-dates").addEventListener("submit", (event) => {
    event.preventDefault();
    const form = event.target;
    problem(form, null);
    const [kind, name, when] = [form.elements.kind.value, form.elements.name.value.trim(), form.elements.when.value.trim()];
    const [from, to] = when.includes("..") ? when.split("..") : [when, when];
    const hours = form.elements.hours.value.trim() || "00:00-24:00";
    const called = name || form.elements.kind.selectedOptions[0].textContent.split(/[:：]/)[0];
    const done = change((schedule) => {
      if (kind === "exception") schedule.exceptions.push({ name: called, when, hours, profile: form.elements.profile.value });
      else if (kind === "off") schedule.holidays.off.push({ from, to, name });
      else if (kind === "working") for (let day = from; day <= to && schedule.holidays.working.length < 1000; day = plus(day, 1)) schedule.holidays.working.push(day);
      else schedule.blackouts.push({ name: called, when, hours, kind: kind === "silent" ? "silent" : "data" });
    });
    if (done) form.elements.name.value = "";
  });

  function drawRules() {
    const { exceptions, blackouts, holidays } = work.schedule;
    const list = (title, rows) => (rows.length ? [make("h2", { class: "spaced" }, title), ...rows] : []);
    const edit = (which, at, key) => (value) => change((schedule) => { schedule[which][at][key] = value; });
    const rule = (which) => (entry, at) => make("div", { class: "rule-row" },
      field(say("name"), entry.name, edit(which, at, "name")),
      field(say("when"), entry.when, edit(which, at, "when")),
      field(say("hours-of"), entry.hours, edit(which, at, "hours")),
      which === "exceptions"
        ? choice(say("profile"), profiles().map((profile, number) => [profile.name, named(number)]), entry.profile, edit(which, at, "profile"))
        : choice(say("kind"), ["data", "silent"].map((kind) => [kind, say(`kind:${kind}`)]), entry.kind, edit(which, at, "kind")),
      remover(entry.name, () => change((schedule) => schedule[which].splice(at, 1))));
    const off = holidays.off.map((entry, at) => make("div", { class: "rule-row" },
      make("span", { class: "nowrap" }, entry.from === entry.to ? entry.from : `${entry.from} – ${entry.to}`),
      field(say("name"), entry.name, (value) => change((schedule) => { schedule.holidays.off[at].name = value; })),
      remover(`${entry.from} ${entry.name}`, () => change((schedule) => schedule.holidays.off.splice(at, 1)))));
    const working = holidays.working.map((day, at) => make("div", { class: "rule-row" },
      make("span", { class: "nowrap" }, day), remover(day, () => change((schedule) => schedule.holidays.working.splice(at, 1)))));
    redraw(by("rules"), ...list(say("exceptions"), exceptions.map(rule("exceptions"))), ...list(say("blackouts"), blackouts.map(rule("blackouts"))),
      ...list(say("days-off"), off), ...list(say("working-days"), working));
    const keys = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    const options = (own) => [...(own ? [["", say("own-row")]] : []), ...keys.map((key, at) => [key, given.days[at]])].map(([key, name]) => make("option", { value: key }, name));
    for (const [id, key, own] of [["holidays-as", "as", true], ["working-as", "working_as", false]]) {
      const select = by(id);
      if (!select.firstChild) {
        select.append(...options(own));
        select.addEventListener("change", () => change((schedule) => {
          if (select.value) schedule.holidays[key] = select.value;
          else delete schedule.holidays[key];
        }));
      }
      select.value = holidays[key] ?? "";
      select.disabled = !given.may;
    }
    for (const part of by("add-dates").elements) part.disabled = !given.may;
    by("ics").disabled = !given.may;
  }

  by("ics").addEventListener("change", async () => {
    const place = by("imported");
    const file = by("ics").files[0];
    place.replaceChildren();
    if (!file) return;
    const said = await ask("POST", "/api/v1/policy/holidays", { calendar: await file.text() });
    if (!said.ok) return place.append(make("p", { class: "problem", role: "alert" }, said.body?.detail ?? String(said.status)));
    const known = new Set();
    for (const days of work.schedule.holidays.off) for (let day = days.from; day <= days.to; day = plus(day, 1)) known.add(day);
    const off = said.body.off.filter((days) => !known.has(days.from) || !known.has(days.to));
    const working = said.body.working.filter((day) => !work.schedule.holidays.working.includes(day));
    if (!off.length && !working.length) return place.append(make("p", { role: "status" }, say("import-nothing")));
    const take = make("button", { type: "button" }, say("import-take"));
    take.addEventListener("click", () => {
      change((schedule) => merge(schedule.holidays, off, working));
      place.replaceChildren();
      by("ics").value = "";
    });
    place.append(make("p", { role: "status" }, say("import-adds", off.length, working.length)),
      make("ul", {}, ...off.map((days) => make("li", {}, `${days.from === days.to ? days.from : `${days.from} – ${days.to}`} ${days.name}`)), ...working.map((day) => make("li", {}, `${day} · ${say("working-days")}`))), take);
  });

  /** What a calendar says of a day takes the place of what was known of it. */
  function merge(holidays, off, working) {
    const days = new Map();
    const each = (list) => { for (const span of list) for (let day = span.from; day <= span.to; day = plus(day, 1)) days.set(day, span.name); };
    each(holidays.off);
    each(off);
    working.forEach((day) => days.delete(day));
    const off_days = new Set();
    each_day(off, (day) => off_days.add(day));
    holidays.working = [...new Set([...holidays.working.filter((day) => !off_days.has(day)), ...working])].sort();
    holidays.off = [];
    for (const [day, name] of [...days].sort()) {
      const last = holidays.off[holidays.off.length - 1];
      if (last && last.name === name && name && plus(last.to, 1) === day) last.to = day;
      else holidays.off.push({ from: day, to: day, name });
    }
  }
  function each_day(spans, act) {
    for (const span of spans) for (let day = span.from; day <= span.to; day = plus(day, 1)) act(day);
  }

  // ---- what it comes to

  function showProblems(problems) {
    const jump = (line) => {
      const button = make("button", { type: "button", class: "plain small" }, say("line", line));
      button.addEventListener("click", () => show_line(line));
      return button;
    };
    by("problems").replaceChildren(...(problems.length ? [make("div", { class: "note bad" }, make("strong", {}, say("mistake")),
      ...problems.map((one) => make("p", {}, one.line ? jump(one.line) : null, one.line ? " " : null, one.field ? `${one.field}: ` : "", one.detail)))] : []));
  }

  const moment = (second) => new Intl.DateTimeFormat(given.locale, { weekday: "short", day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: good?.schedule?.zone ?? "UTC" }).format(new Date(second * 1000));
  const hours = (minutes) => say("hours", String(Math.round(minutes / 6) / 10));

  const SVG = "http://www.w3.org/2000/svg";
  function strip(day, legend, count) {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 96 10");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("class", "run");
    svg.setAttribute("aria-hidden", "true");
    const others = { "x": "blk", "X": "blk", "=": "blk", "#": "blk", "^": "boost", "/": "skip" };
    let from = 0;
    for (let at = 1; at <= day.strip.length; at += 1) {
      if (at < day.strip.length && day.strip[at] === day.strip[from]) continue;
      const number = legend.findIndex((entry) => entry.sign === day.strip[from]);
      const rect = document.createElementNS(SVG, "rect");
      rect.setAttribute("x", from);
      rect.setAttribute("width", at - from);
      rect.setAttribute("height", 10);
      rect.setAttribute("class", number >= 0 && number < count ? look_of(number) : others[day.strip[from]] ?? "p0");
      svg.append(rect);
      from = at;
    }
    return svg;
  }

  function drawPreview() {
    showProblems(answer?.problems ?? []);
    const is_good = answer && !answer.problems.length;
    by("preview-state").textContent = !answer || is_good ? "" : say("last-good");
    by("preview").classList.toggle("dim", Boolean(answer) && !is_good);
    if (!good?.preview) return;
    const { preview, summary, clocks } = good;
    by("open-hours").textContent = hours(summary.open_minutes);
    by("night-bytes").textContent = bytes(summary.night_bytes);
    const tonight = by("tonight");
    const backlog = summary.backlog;
    if (backlog === null) tonight.replaceChildren(say("unknown-backlog"), make("br"), make("span", { class: "small soft" }, say("room", bytes(summary.tonight_bytes))));
    else if (backlog === 0) tonight.replaceChildren(make("span", { class: "chip good" }, say("nothing-waits")), make("br"), make("span", { class: "small soft" }, say("room", bytes(summary.tonight_bytes))));
    else {
      const word = summary.fits ? "fits" : summary.arrives ? "misses" : "never";
      tonight.replaceChildren(make("span", { class: `note small ${summary.fits ? "good" : "warn"}` }, say(word, bytes(backlog), summary.arrives ? moment(summary.arrives) : "")));
    }
    const told = clocks.map((one) => {
      const word = `clock-${one.skipped ? "skip" : "repeat"}${one.open_minutes ? "" : "-closed"}`;
      return make("li", {}, say(word, one.date, one.from, one.to, one.open_minutes, bytes(one.bytes)));
    });
    by("clocks").replaceChildren(told.length ? make("ul", { class: "small clocks" }, ...told) : make("p", { class: "small soft" }, say("clock-none")));
    const count = good.schedule.profiles.length;
    by("days").replaceChildren(...preview.days.map((day) => {
      const name = `${given.days[(date_of(day.date).getUTCDay() + 6) % 7]} ${day.date.slice(5)}`;
      return make("div", { class: "day-ahead", role: "img", "aria-label": say("day-line", name, hours(day.open_minutes), bytes(day.bytes)) },
        make("span", { class: "small" }, name), strip(day, preview.legend, count), make("span", { class: "small number" }, `${hours(day.open_minutes)} · ${bytes(day.bytes)}`));
    }));
    by("legend").replaceChildren(...preview.legend.flatMap((entry, number) => {
      const look = number < count ? look_of(number) : { "^": "boost", "/": "skip" }[entry.sign] ?? "blk";
      return [make("span", { class: "nowrap" }, make("i", { class: `swatch tiny ${look}` }), number === 0 ? say("closed") : number < count ? `${entry.name} ${entry.rate}` : say(`sign:${entry.sign}`)), " "];
    }));
  }

  // ---- the text

  function drawText() {
    const source = by("document");
    const bad = new Set((answer?.problems ?? []).map((one) => one.line));
    const count = source.value.split("\n").length;
    by("lines").replaceChildren(...Array.from({ length: count }, (_, at) => make("span", { class: bad.has(at + 1) ? "wrong" : null }, String(at + 1))));
    by("lines").scrollTop = source.scrollTop;
    source.setAttribute("aria-invalid", String(bad.size > 0));
  }
  function show_line(line) {
    select_tab("text");
    const source = by("document");
    const before = source.value.split("\n").slice(0, line - 1).join("\n").length;
    const from = before + (line > 1 ? 1 : 0);
    const end = source.value.indexOf("\n", from);
    source.focus();
    source.setSelectionRange(from, end < 0 ? source.value.length : end);
    source.scrollTop = Math.max(0, (line - 5) * (source.scrollHeight / Math.max(1, source.value.split("\n").length)));
  }
  let typing = 0;
  by("document").addEventListener("input", () => {
    dirty = true;
    serial += 1; // whatever is on its way was asked for another text
    clearTimeout(timer);
    clearTimeout(typing);
    by("preview-state").textContent = say("checking");
    drawText();
    typing = setTimeout(() => look(by("document").value), 500);
  });
  by("document").addEventListener("scroll", () => { by("lines").scrollTop = by("document").scrollTop; });

  // ---- tabs

  const tabs = [...document.querySelectorAll("[role=tab]")];
  function select_tab(key) {
    for (const tab of tabs) {
      const is = tab.id === `tab-${key}`;
      tab.setAttribute("aria-selected", String(is));
      tab.tabIndex = is ? 0 : -1;
      by(tab.getAttribute("aria-controls")).hidden = !is;
    }
    if (work) draw();
  }
  for (const [at, tab] of tabs.entries()) {
    tab.addEventListener("click", () => select_tab(tab.id.slice(4)));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = tabs[(to + tabs.length) % tabs.length];
      select_tab(next.id.slice(4));
      next.focus();
    });
  }

  // ---- saving

  const saving = by("save");
  const ticked = () => [...document.querySelectorAll("input[name=also]:checked")].map((box) => box.value);

  function diff_lines(diff) {
    return diff.split("\n").filter((line) => !line.startsWith("---") && !line.startsWith("+++") && line !== "").map((line) => {
      const look = { "+": "new", "-": "gone", "@": "where" }[line[0]];
      return make("span", { class: look }, line);
    });
  }

  function drawSaving() {
    if (!saving) return;
    const is_new = version === null;
    const changed = is_new || Boolean(answer?.diff);
    by("diff").replaceChildren(...(is_new ? [say("new-policy")] : answer?.diff ? diff_lines(answer.diff) : [say("no-change")]));
    by("causes").replaceChildren(...(answer?.causes.length ? [make("div", { class: "note warn" }, say("needs-owner"), make("ul", {}, ...answer.causes.map((cause) => make("li", {}, cause))))] : []));
    const more = ticked().length;
    by("more-count").hidden = more === 0;
    by("more-count").textContent = say("sites-count", more);
    by("save-button").disabled = !answer || answer.problems.length > 0 || stale || (!changed && more === 0);
    by("save-state").textContent = dirty && changed ? say("unsaved") : "";
  }

  saving?.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem(saving, null);
    saving.querySelector(".said").textContent = "";
    by("save-button").disabled = true;
    await save(by("reason").value.trim());
    drawSaving();
  });

  async function save(reason) {
    const [document_, more] = [text, ticked()];
    const said = [];
    let waits = false;
    let saved_here = false;
    if (version === null || answer.diff) {
      const headers = version === null ? { "If-None-Match": "*" } : { "If-Match": `"v${version}"` };
      const saved = await ask("PUT", given.path, { document: document_, reason }, headers);
      if (saved.status === 412) return conflict();
      if (!saved.ok) return problem(saving, saved.body);
      if (saved.status === 202) {
        waits = true;
        said.push(say("waits-approval", saved.body.approval), ...saved.body.causes);
      } else {
        saved_here = true;
        said.push(...saved.body.what.filter((one) => one.includes("stays in force")));
      }
    }
    dirty = false;
    if (more.length) {
      const applied = await ask("POST", "/api/v1/policies/schedule", { tenant: given.tenant, sites: more, document: document_, reason });
      if (!applied.ok) problem(saving, { ...applied.body, detail: say("saving-others-failed", applied.body?.detail ?? applied.status) });
      else if (applied.status === 202) { waits = true; said.push(say("waits-approval", applied.body.approval), ...applied.body.causes); }
      else said.push(say("saved-more", more.length));
      if (applied.ok) for (const box of document.querySelectorAll("input[name=also]:checked")) box.checked = false;
    }
    if (!waits) by("reason").value = "";
    await begin_anew();
    if (saved_here) said.unshift(say("saved", version));
    notice(saving, said.join(" "), waits ? "warn" : "good");
  }

  /** What is in force is what the work goes on from. */
  async function begin_anew() {
    const now = await ask("GET", given.path);
    if (now.ok) version = now.body.version;
    serial += 1;
    await look();
    await refresh(["held", "sites"]);
    filter();
  }

  async function conflict() {
    const theirs = await ask("GET", given.path);
    if (!theirs.ok) return problem(saving, theirs.body);
    const theirs_text = theirs.body.document;
    const compared = await ask("POST", "/api/v1/policy/draft", { site: given.site, document: theirs_text, ...(version === null ? {} : { against: version }) });
    const keep = make("button", { type: "button" }, say("keep-mine"));
    const take = make("button", { type: "button", class: "plain" }, say("take-theirs"));
    const place = by("conflict");
    const differs = compared.ok && compared.body.diff;
    place.replaceChildren(make("div", { class: "note warn", role: "alert", tabindex: "-1" }, make("p", {}, say("conflict", theirs.body.version), ` (${theirs.body.actor}: ${theirs.body.reason})`),
      make("pre", { class: "diff" }, ...(differs ? diff_lines(compared.body.diff) : [say("conflict-same")])), make("div", { class: "row" }, keep, take)));
    place.firstChild.focus();
    const go_on = (schedule) => {
      remember(copy(work));
      version = theirs.body.version;
      work = { base: theirs_text, schedule };
      place.replaceChildren();
      draw();
      later(0);
    };
    keep.addEventListener("click", () => {
      // Places and earlier names are those of the text that the work began with: rules of their text are found by name.
      const schedule = copy(work.schedule);
      const now = compared.body.schedule;
      for (const list of ["exceptions", "blackouts"]) {
        const taken = new Set();
        for (const rule of schedule[list]) {
          delete rule.was;
          const at = (now?.[list] ?? []).findIndex((other, at) => other.name === rule.name && !taken.has(at));
          if (at >= 0) { rule.was = at; taken.add(at); }
        }
      }
      for (const profile of schedule.profiles) if (profile.was && !now?.profiles.some((other) => other.name === profile.was)) delete profile.was;
      go_on(schedule);
    });
    take.addEventListener("click", () => {
      if (!window.confirm(say("drop-sure"))) return;
      go_on(copy(compared.body.schedule));
      dirty = false;
    });
  }

  /** The list of further sites, by name. */
  function filter() {
    const wanted = (by("site-filter")?.value ?? "").trim().toLowerCase();
    for (const line of document.querySelectorAll(".site-line")) line.hidden = !line.dataset.name.toLowerCase().includes(wanted);
    drawSaving();
  }
  const tick = (fits) => {
    for (const line of document.querySelectorAll(".site-line:not([hidden])")) {
      const box = line.querySelector("input:not(:disabled)");
      if (box) box.checked = fits(line);
    }
    drawSaving();
  };
  by("site-filter")?.addEventListener("input", filter);
  // The server draws the list anew when an edge acknowledges.
  const list = document.querySelector("[data-part=sites]");
  if (list) new MutationObserver(filter).observe(list, { childList: true });
  by("tick-all")?.addEventListener("click", () => tick(() => true));
  by("tick-none")?.addEventListener("click", () => tick(() => false));
  by("tick-same")?.addEventListener("click", () => tick((line) => line.dataset.group !== "" && line.dataset.group === by("tick-same").dataset.group));
  if (by("tick-same")) by("tick-same").hidden = by("tick-same").dataset.group === "";
  by("more-sites")?.addEventListener("change", drawSaving);

  // ---- keys, leaving, beginning

  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.altKey || event.target.closest?.("input, textarea, select")) return;
    const key = event.key.toLowerCase();
    if (key === "z" && !event.shiftKey) { event.preventDefault(); undo(); }
    if (key === "y" || (key === "z" && event.shiftKey)) { event.preventDefault(); redo(); }
  });
  by("undo").addEventListener("click", undo);
  by("redo").addEventListener("click", redo);
  window.addEventListener("beforeunload", (event) => {
    if (!dirty || (!answer?.diff && version !== null)) return;
    event.preventDefault();
    event.returnValue = say("leave");
  });

  async function begin() {
    const said = await ask("POST", "/api/v1/policy/draft", { site: given.site, document: given.document });
    if (!said.ok) return showProblems([{ detail: said.body?.detail ?? String(said.status) }]);
    answer = said.body;
    if (answer.schedule) {
      work = { base: given.document, schedule: answer.schedule };
      if (!answer.problems.length) good = answer;
      brush = Math.min(1, answer.schedule.profiles.length - 1);
    } else {
      stale = true;
      select_tab("text");
      showProblems(answer.problems);
    }
    draw();
  }

  const first = by("begin");
  first?.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem(first, null);
    const of = (name) => first.elements[name].value.trim();
    const schedule = {
      zone: of("zone"),
      line: { up: of("up"), down: of("down") || of("up"), cap: of("cap") || "100 %", courtesy: "25 ms" },
      profiles: [{ name: "closed", up: "0", down: "0" }],
      grid: Array.from({ length: DAYS }, () => new Array(CELLS).fill(0)),
      holidays: { working_as: "mon", off: [], working: [] },
      exceptions: [],
      blackouts: [],
    };
    preset(schedule, of("preset"));
    const said = await ask("POST", "/api/v1/policy/draft", { site: given.site, edit: schedule });
    if (!said.ok) return problem(first, said.body);
    if (!said.body.schedule) return problem(first, { type: "invalid", title: "", detail: said.body.problems.map((one) => `${one.field ?? ""}: ${one.detail}`).join(" ") });
    answer = said.body;
    good = answer;
    text = answer.document;
    work = { base: text, schedule: answer.schedule };
    by("document").value = text;
    by("beginning").hidden = true;
    by("editor").hidden = false;
    by("saving").hidden = false;
    dirty = true;
    draw();
  });
  if (first && !by("begin-zone").value) by("begin-zone").value = Intl.DateTimeFormat().resolvedOptions().timeZone || "";

  // On a narrow screen an hour is what a finger can hit.
  if (window.matchMedia("(max-width: 640px)").matches) {
    grain = 4;
    document.querySelector("input[name=grain][value='60']").checked = true;
  }
  if (given.document !== null) begin();
  else draw();
})();
