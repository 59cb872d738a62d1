"use strict";
// The judging page: one output of a blind packet at a time. Scores go into the packet that the API gave, and finished
// items of it go back to the API. The one that was finished last is held back until the next one is, so that it can be
// taken back; "Save now", the end of the packet and leaving the page send it too. Where the API refuses several together,
// each is sent by itself, so that one it does not take holds up no other. Texts of models only ever become text nodes.

(() => {
  const desk = document.getElementById("desk");
  const at = (id) => document.getElementById(id);
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };

  let packet = null; // as the API gave it, with scores filled in
  let given = []; // item index -> what was in its fields as the API gave it
  let steps = []; // {item, output}: one output of one item
  let position = 0;
  let history = []; // positions that were finished or skipped, of a skipped item its first; oldest first
  let current = 0; // the marked criterion
  const finished = []; // items done, by index, in order
  const by = new Map(); // item index -> who finished it: the verdict is theirs, whatever name stands there when it is sent
  const sent = new Map(); // item index -> {who, taken}: whose verdict the API has taken last, and what of its fields
  const refused = new Map(); // item index -> {what, why}: what the API did not take, and its words
  let sending = false;
  let allWanted = false;

  // -- values

  // Whole numbers beyond 2^53 come back exactly as they came, where the browser can do that.
  const exact = (key, value, source) =>
    typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value) && JSON.rawJSON && source
      ? JSON.rawJSON(source.source)
      : value;

  // What a person fills in of an item, as JSON. Without the outputs: each key asks this of every item that was judged, and
  // outputs may be long.
  const fields = (item) => JSON.stringify(item.candidates.map(({ scores, rationale }) => ({ scores, rationale })));

  const INVISIBLE = /[\u0080-\u0084\u0086-\u009f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff]|\udb40[\udc00-\udc7f]/gu;
  const CONTROLS = /[\u0000-\u0008\u000b-\u001f]/g;
  const visible = (text) =>
    text
      .replaceAll("\r\n", "\n")
      .replace(CONTROLS, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
      .replaceAll("\u007f", "\u2421")
      .replace(/[\u0085\u2028\u2029]/g, "\n")
      .replace(/[\u{e0000}-\u{e007f}]/gu, "\ufffd")
      .replace(INVISIBLE, "\ufffd");

  // A conversation message by message, and other values as JSON, as on the other pages.
  const ROLES = ["system", "developer", "user", "assistant"];
  const turn = (m) =>
    m !== null && typeof m === "object" && Object.keys(m).length === 2 && ROLES.includes(m.role) && typeof m.content === "string";
  const shown = (value) => {
    if (typeof value === "string") return value;
    if (!Array.isArray(value) || value.length === 0 || !value.every(turn)) {
      return JSON.stringify(value, null, 1).replace(/,\n */g, ", ").replace(/\n */g, ""); // no text holds a newline here
    }
    return value.map((m) => `${m.role}: ${m.content}`).join("\n");
  };

  const name = () => at("name").value.trim();
  const criteria = () => packet.rubric.criteria;
  const judged = () => criteria().filter((c) => c.check === undefined);
  const entry = () => packet.items[steps[position].item].candidates[steps[position].output];
  const complete = (candidate) => judged().every((c) => candidate.scores[c.name] !== null);
  const itemDone = (index) => packet.items[index].candidates.every(complete);
  // What a scale's buttons say; null where it has too many points for them, or is meant in between, as 0 to 1 is.
  const levels = (c) =>
    c.type === "scale" && Number.isInteger(c.min) && Number.isInteger(c.max) && c.max - c.min > 1 && c.max - c.min < 11
      ? Array.from({ length: c.max - c.min + 1 }, (_, i) => c.min + i)
      : null;

  // -- what is shown

  const toSave = () => (at("keys").checked ? "press s" : "press Save now");
  const retry = () => `P${toSave().slice(1)} to try again`;

  const refusals = () => {
    const lines = [...refused].map(([index, { why }]) => {
      const text = visible(packet.items[index].candidates[0].output);
      return `number ${index + 1} of ${packet.items.length}, ${text.slice(0, 60)}${text.length > 60 ? "..." : ""}: ${why}`;
    });
    if (!lines.length) return "";
    const more = lines.length > 3 ? [`and ${lines.length - 3} more`] : [];
    const again = `${retry()}, judge it anew (Undo), or load this page anew for what is pending now.`;
    const rest = `The others are not held up. ${again}`;
    return `Not saved: ${[...lines.slice(0, 3), ...more].join("\n")}\n${rest}`;
  };

  const tell = (message) => {
    const text = [message, refusals()].filter(Boolean).join("\n");
    at("problem").textContent = text;
    at("problem").hidden = !text;
  };

  const unsent = (all = true) => {
    const done = all ? finished : finished.slice(0, -1);
    return done.filter((index) => itemDone(index) && !isSent(index));
  };

  // Two people are two judges: who confirms what another said has said it too.
  const isSent = (index) => sent.get(index)?.who === by.get(index) && sent.get(index)?.taken === fields(packet.items[index]);

  const touched = (item, index) => fields(item) !== (sent.get(index)?.taken ?? given[index]);
  // What would be lost with the page: of a candidate that is not finished, too.
  const begun = () => packet.items.some(touched) || unsent().length > 0;
  const begunHere = () => position < steps.length && touched(packet.items[steps[position].item], steps[position].item);

  // What the API has taken stays judged, wherever the person goes from there.
  const isJudged = (index) => sent.has(index) || (itemDone(index) && finished.includes(index));

  const count = () => {
    const done = packet.items.filter((_, index) => isJudged(index)).length;
    at("progress").max = Math.max(1, packet.items.length);
    at("progress").value = done;
    at("count").textContent = `${done} of ${packet.items.length} judged`;
    const open = unsent().length;
    const saved = begunHere() ? "all saved but this one" : "all saved";
    at("saved").textContent = sending ? "saving ..." : open ? `${open} not saved yet` : done ? saved : "";
    at("undo").disabled = history.length === 0;
    at("undo-last").disabled = history.length === 0;
    at("save").disabled = open === 0;
  };

  const mark = (index) => {
    current = Math.max(0, Math.min(index, judged().length - 1));
    document.querySelectorAll("#criteria fieldset").forEach((f, i) => f.classList.toggle("current", i === current));
  };

  const choice = (criterion, label, value) => {
    const input = make("input", { type: "radio", name: `c-${criterion.name}`, value: JSON.stringify(value) });
    input.checked = entry().scores[criterion.name] === value;
    input.addEventListener("change", () => set(criterion, value, false));
    return make("label", { className: "choice" }, input, make("span", { textContent: label }));
  };

  const field = (criterion, index) => {
    const box = make("fieldset", {}, make("legend", { textContent: criterion.name }));
    box.addEventListener("focusin", () => mark(index));
    const scale = levels(criterion);
    if (criterion.type === "flag") box.append(choice(criterion, "yes", true), choice(criterion, "no", false));
    else if (scale) box.append(...scale.map((level) => choice(criterion, String(level), level)));
    else {
      const input = make("input", { type: "number", min: criterion.min, max: criterion.max, step: "any" });
      input.ariaLabel = criterion.name;
      const allowed = `${criterion.min} to ${criterion.max}`;
      const range = make("span", { className: "soft", id: `range-${index}`, textContent: allowed });
      range.setAttribute("role", "status");
      input.setAttribute("aria-describedby", range.id);
      const value = entry().scores[criterion.name];
      if (value !== null) input.value = value;
      input.addEventListener("input", () => {
        const fits = input.checkValidity();
        set(criterion, input.value === "" || !fits ? null : input.valueAsNumber, false);
        input.setAttribute("aria-invalid", String(!fits));
        range.className = fits ? "soft" : "bad";
        range.textContent = fits ? allowed : `not a number from ${allowed}`;
      });
      box.append(input, range);
    }
    return box;
  };

  const show = () => {
    const over = position >= steps.length;
    at("work").hidden = over;
    at("done").hidden = !over;
    if (!over) {
      const { item, output } = steps[position];
      const { context, candidates } = packet.items[item];
      at("context").replaceChildren(
        ...Object.entries(context).flatMap(([key, value]) => [
          make("dt", { textContent: visible(key) }),
          make("dd", { dir: "auto", textContent: visible(shown(value)) }),
        ]),
      );
      at("context").hidden = Object.keys(context).length === 0;
      at("which").textContent = candidates.length > 1 ? `Output ${output + 1} of ${candidates.length}` : "Output";
      at("output").textContent = visible(entry().output) || "(empty)";
      at("output").classList.toggle("soft", entry().output === "");
      const filled = criteria()
        .filter((c) => c.check !== undefined && entry().scores[c.name] !== undefined)
        .map((c) => `${c.name}: ${found(entry().scores[c.name])}`);
      at("criteria").replaceChildren(
        ...judged().map(field),
        ...(filled.length ? [make("p", { className: "filled", textContent: `A program found ${filled.join(", ")}.` })] : []),
      );
      at("rationale").value = entry().rationale || "";
      const first = judged().findIndex((c) => entry().scores[c.name] === null);
      mark(first < 0 ? judged().length : first);
      ready();
      at("which").focus({ preventScroll: true });
      at("output").scrollTop = 0; // each is read from its beginning, however far down the one before was left
      if (at("work").getBoundingClientRect().top < 0) at("work").scrollIntoView();
    } else {
      const putOff = packet.items.filter((_, index) => !isJudged(index)).length;
      at("done-title").textContent = putOff ? `${putOff} skipped, the rest is judged` : "Nothing is left to judge";
      at("done-title").focus();
    }
    count();
  };

  const found = (score) => (typeof score === "number" ? String(Math.round(score * 1000) / 1000) : score ? "yes" : "no");

  const ready = () => {
    at("next").disabled = !complete(entry());
  };

  // -- what a person does

  const set = (criterion, value, goOn) => {
    entry().scores[criterion.name] = value;
    const index = judged().indexOf(criterion);
    const fieldset = document.querySelectorAll("#criteria fieldset")[index];
    fieldset.querySelectorAll("input[type=radio]").forEach((i) => (i.checked = i.value === JSON.stringify(value)));
    if (goOn) mark(index + 1);
    ready();
    count();
  };

  const flag = () => {
    const marked = judged()[current];
    if (marked && marked.type === "flag") return marked;
    const flags = judged().filter((c) => c.type === "flag");
    return flags.find((c) => entry().scores[c.name] === null) || flags[0];
  };

  const next = () => {
    if (position >= steps.length || !complete(entry())) {
      const open = judged().find((c) => entry().scores[c.name] === null);
      if (open) tell(`Score ${open.name} first, or skip.`);
      return;
    }
    if (!name()) {
      tell("Write your name first: it stands beside your verdicts.");
      at("name").focus();
      return;
    }
    tell("");
    history.push(position);
    const { item } = steps[position];
    // At its last output, also of one that was gone back to: there it may still be skipped.
    if (steps[position + 1]?.item !== item) {
      finished.push(item);
      by.set(item, name());
    }
    position += 1;
    show();
    send(position >= steps.length);
  };

  const later = () => {
    if (position >= steps.length) return;
    const { item } = steps[position];
    const first = steps.findIndex((step) => step.item === item);
    history = [...history.filter((p) => p < first), first]; // undo comes back to the first output: all are skipped
    refused.delete(item); // given up: there is nothing to save
    if (sent.has(item)) {
      const { who, taken } = sent.get(item);
      JSON.parse(taken, exact).forEach((one, i) => Object.assign(packet.items[item].candidates[i], one));
      by.set(item, who);
      finished.push(item);
    } else {
      for (const candidate of packet.items[item].candidates) {
        for (const c of judged()) candidate.scores[c.name] = null;
        candidate.rationale = null;
      }
    }
    while (position < steps.length && steps[position].item === item) position += 1;
    tell(sent.has(item) ? "Its verdict was saved before, and stays. To replace it, go back and judge it anew." : "");
    show();
    send(position >= steps.length);
  };

  const undo = () => {
    if (!history.length) return;
    position = history.pop();
    const done = finished.indexOf(steps[position].item);
    if (done >= 0) finished.splice(done, 1);
    tell("");
    show();
  };

  // -- sending

  const asSent = (index) => JSON.stringify([by.get(index), fields(packet.items[index])]);

  // Sends items of one judge together: whether all of them were taken, or refused for what is in them. Anything else is told.
  // room: bytes that may go on their way though the page does not stay.
  const post = async (indexes, room) => {
    const items = indexes.map((index) => packet.items[index]);
    const taken = items.map(fields);
    const whats = indexes.map(asSent);
    const who = by.get(indexes[0]);
    const body = JSON.stringify({ ...packet, judge_kind: "human", judged_by: who, items });
    const response = await fetch("/api/bench/verdicts", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body,
      keepalive: new TextEncoder().encode(body).length < room,
    });
    const answer = await response.json().catch(() => ({}));
    const why = answer.detail || response.statusText;
    if (response.ok) {
      indexes.forEach((index, i) => sent.set(index, { who, taken: taken[i] }));
      indexes.forEach((index) => refused.delete(index));
    } else if (response.status === 422 || response.status === 413) {
      if (indexes.length === 1) refused.set(indexes[0], { what: whats[0], why });
      else for (const index of indexes) if (!(await post([index], room))) return false;
    } else if (response.status === 401) {
      tell(`You are not logged in any more. Log in in another tab, then ${toSave()}: nothing is lost while this page is open.`);
      return false;
    } else {
      tell(`Not saved: ${why}\n${retry()}.`);
      return false;
    }
    return true;
  };

  const send = async (all, leaving = false) => {
    if (sending && !leaving) {
      allWanted ||= all; // asked for while a request is under way: next
      return;
    }
    const open = unsent(all).filter((index) => refused.get(index)?.what !== asSent(index));
    if (!open.length) return;
    const judges = [...new Set(open.map((index) => by.get(index)))];
    const room = leaving ? 60000 / judges.length : 0; // browsers refuse more than 64 KiB at a time
    sending = true;
    count();
    let again = false;
    try {
      // All at once: of a page that is left, nothing runs that would send the next.
      const taken = await Promise.all(judges.map((who) => post(open.filter((index) => by.get(index) === who), room)));
      again = taken.every(Boolean);
      if (again) tell("");
    } catch (error) {
      tell(`Not saved: the service does not answer (${error.message}). ${retry()}.`);
    }
    sending = false;
    count();
    const everything = allWanted || position >= steps.length;
    allWanted = false;
    if (again) send(everything);
  };

  const save = () => {
    refused.clear(); // whoever asks for it has it tried again
    send(true);
  };

  // -- keys

  const writing = (target) => target.matches("textarea, input:not([type=radio], [type=checkbox])");

  // Whoever speaks to the computer would score by words that are heard as letters: WCAG 2.1, 2.1.4. Enter stays.
  const showKeys = () => {
    for (const element of document.querySelectorAll(".key")) element.hidden = !at("keys").checked;
  };

  document.addEventListener("keydown", (event) => {
    if (!packet || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.repeat && !writing(event.target)) {
      if (event.key === "Enter") event.preventDefault(); // which would press the button in focus again
      return; // a key that is held a moment too long is meant once
    }
    if (writing(event.target)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const over = position >= steps.length;
    const key = event.key.toLowerCase();
    if (key.length === 1 && !at("keys").checked) return;
    if (key === "u") undo();
    else if (key === "s") save();
    else if (over) return;
    else if (key === "l") later();
    else if (key === "r") at("rationale").focus();
    else if (key === "enter" && !event.target.matches("button, a, summary")) next();
    else if ((key === "y" || key === "n") && flag()) set(flag(), key === "y", true);
    else if (key === "f" && flag()) set(flag(), !entry().scores[flag().name], false);
    else if (/^[0-9]$/.test(key)) {
      const criterion = judged()[current];
      const level = Number(key);
      const open = judged().find((c) => c.type === "scale" && entry().scores[c.name] === null);
      const target = criterion && criterion.type === "scale" ? criterion : open;
      if (target && (levels(target) || []).includes(level)) set(target, level, true);
      else return;
    } else return;
    event.preventDefault();
  });

  at("scores").addEventListener("submit", (event) => {
    event.preventDefault();
    next();
  });
  at("undo").addEventListener("click", undo);
  at("undo-last").addEventListener("click", undo);
  at("later").addEventListener("click", later);
  at("save").addEventListener("click", save);
  at("rationale").addEventListener("input", () => {
    entry().rationale = at("rationale").value.trim() ? at("rationale").value : null;
    count();
  });
  at("keys").addEventListener("change", () => {
    showKeys();
    try {
      localStorage.setItem("promptbench-keys", at("keys").checked ? "on" : "off");
    } catch {
      // without storage they act again the next time
    }
  });
  at("name").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && name()) at("which").focus();
  });
  at("name").addEventListener("change", () => {
    // What is corrected may be the name that was refused. What was refused for anything else stays that of who gave it.
    for (const [index, { why }] of refused) if (why.startsWith("judged_by ")) by.set(index, name());
    try {
      localStorage.setItem("promptbench-name", at("name").value);
    } catch {
      // without storage the name is asked for again
    }
  });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "hidden" && packet) send(true, true);
  });
  window.addEventListener("beforeunload", (event) => {
    if (packet && begun()) event.preventDefault();
  });

  // -- start

  // The keys of this rubric's scales; what is beyond 9, or of a scale without levels, has none.
  const digits = () => {
    const found = judged().flatMap((c) => levels(c) ?? []).filter((level) => level >= 0 && level <= 9);
    at("digits").hidden = found.length === 0;
    const [low, high] = at("digits").querySelectorAll("kbd");
    low.textContent = Math.min(...found);
    high.textContent = Math.max(...found);
  };

  const start = async () => {
    try {
      at("name").value = localStorage.getItem("promptbench-name") || "";
      at("keys").checked = localStorage.getItem("promptbench-keys") !== "off";
    } catch {
      // likewise
    }
    showKeys();
    const named = encodeURIComponent(desk.dataset.experiment);
    // Slashes stay, as some proxies take no encoded one; but of a/../b, which is a name too, a browser would ask for b.
    const experiment = /(^|\/)\.\.?(\/|$)/.test(desk.dataset.experiment) ? named : named.replaceAll("%2F", "/");
    const address = `/api/bench/packet/${experiment}?task=${encodeURIComponent(desk.dataset.task)}`;
    // Asked for anew: whoever comes here by the back button would get what the browser kept, judged meanwhile or not.
    const response = await fetch(address, { cache: "no-cache" });
    const text = await response.text();
    if (!response.ok) throw new Error(JSON.parse(text).detail);
    packet = JSON.parse(text, exact);
    given = packet.items.map(fields);
    steps = packet.items.flatMap((item, i) => item.candidates.map((_, o) => ({ item: i, output: o })));
    digits();
    show();
    if (steps.length && !at("name").value) at("name").focus();
    document.documentElement.dataset.ready = "true";
  };

  start().catch((error) => tell(`The packet could not be read: ${error.message}`));
})();
