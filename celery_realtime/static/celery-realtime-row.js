// What is seen of one job at one glance, and the style of it. What jobs say is inserted as text, never as markup.

const CSS = `
:host { --_text: var(--celery-text, light-dark(#1b1f24, #e8eaed)); --_muted: var(--celery-muted, light-dark(#57606a, #a3adb8)); --_surface: var(--celery-surface, light-dark(#fff, #16191d)); --_line: var(--celery-line, light-dark(#d0d7de, #3a4149));
  --_accent: var(--celery-accent, light-dark(#0a5fca, #74b4ff)); --_success: var(--celery-success, light-dark(#1a7334, #5fd477)); --_error: var(--celery-error, light-dark(#c0262d, #ff938c)); --_radius: var(--celery-radius, .5rem);
  display: block; position: relative; color: var(--_text); background: var(--_surface); border: 1px solid var(--_line); border-radius: var(--_radius); font: var(--celery-font, 1rem/1.4 system-ui, sans-serif); text-align: start; overflow: hidden }
:host([hidden]), [hidden] { display: none !important }
:host([theme=light]) { color-scheme: light } :host([theme=dark]) { color-scheme: dark } :host([theme=auto]) { color-scheme: light dark }
* { box-sizing: border-box; margin: 0 }
button, input { font: inherit; color: inherit; background: none; border: 1px solid var(--_line); border-radius: calc(var(--_radius) / 2); padding: 0 .6em; min-block-size: 1.75rem; white-space: nowrap }
button { cursor: pointer } [aria-disabled=true] { cursor: default; color: var(--_muted) } [aria-pressed=true] { border-color: currentcolor; font-weight: 600 }
:focus-visible { outline: 2px solid var(--_accent); outline-offset: -2px }
.toolbar, .sums { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center } .toolbar { padding: .5rem .75rem; border-block-end: 1px solid var(--_line) }
.sum::before { content: ""; display: inline-block; inline-size: .5em; block-size: .5em; margin-inline-end: .45em; border-radius: 50%; background: var(--_muted) } [value=running]::before { background: var(--_accent) } [value=success]::before { background: var(--_success) } [value=error]::before { background: var(--_error) }
.sum, .filter, .clear, .restore { font-size: .875em } .clear, .restore { color: var(--_muted) } .filter { flex: 1; min-inline-size: 11rem } ::placeholder { color: var(--_muted); opacity: 1 } .count, .time, .when, .percent, .message, .attempt, .status { color: var(--_muted); font-size: .875em }
.list { overflow: auto; overflow-anchor: none; max-block-size: var(--celery-max-height, 32rem) } ol { list-style: none; padding: 0 } .member .head { padding-inline-start: 2rem }
.head { block-size: var(--celery-row-height, 3.75rem); padding-inline: .75rem; display: grid; grid-template-columns: minmax(0, 1fr) auto; align-content: center; gap: .25rem 0; overflow: hidden } li .head { border-block-end: 1px solid var(--_line) }
.line1, .line2 { grid-column: 1 } .actions { grid-area: 1 / 2 / 3; display: flex; align-items: center } .actions button { margin-inline-start: .6rem } .dismiss { border-color: transparent; color: var(--_muted) } .stop, .rerun { font-size: .875em }
.line1, .line2 { display: flex; align-items: center; gap: .6rem; min-inline-size: 0; white-space: nowrap; font-variant-numeric: tabular-nums } .name, .message { flex: 1; min-inline-size: 0; overflow: hidden; text-overflow: ellipsis; text-align: start }
.name { padding: 0; border: 0; font-weight: 600; min-block-size: 0 } .name::before { content: "▸ " / ""; color: var(--_muted) } .name[aria-expanded=true]::before { content: "▾ " / "" }
.status { padding-inline: .6em; border-radius: 9rem; background: color-mix(in srgb, currentcolor 10%, transparent) } .running .status { color: var(--_accent) } .success .status { color: var(--_success) } .error :is(.status, .message) { color: var(--_error) }
.bar { flex: 0 0 30%; display: flex; gap: 2px; block-size: var(--celery-bar-height, .5rem); border-radius: 9rem; overflow: hidden } .stage { flex: 1 1 0; background: var(--_line) } .fill { display: block; block-size: 100%; inline-size: 0; background: var(--_accent); transition: inline-size .2s }
.success .fill { background: var(--_success) } .error .fill { background: var(--_error) } .wait .fill { inline-size: 40% !important; animation: wait 1.5s infinite alternate } @keyframes wait { to { margin-inline-start: 60% } }
.more { inline-size: 100%; border: 0; min-block-size: 2.5rem; color: var(--_accent) }
.state, .empty { padding: .75rem; color: var(--_muted) } .unseen { position: absolute; inset-block-start: 0; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%) }
@media (max-width: 30rem) { .toolbar, .sums { gap: .35rem } .sum { padding-inline: .4em; font-size: .8125em } .member .head { padding-inline-start: 1.5rem } .actions button { margin-inline-start: .3rem } .rerun { font-size: 0; inline-size: 2.5rem; padding: 0 } .rerun::before { content: "↻"; font-size: 1.25rem } .dismiss { inline-size: 2.25rem; padding: 0 } .when, .attempt, .job:is(.success, .error) .time { display: none } }
@media (pointer: coarse) { button:not(.name), input { min-block-size: 2.5rem } }
@media (prefers-reduced-motion: reduce) { .fill { transition: none; animation: none !important } }
@media (forced-colors: active) { .bar { border: 1px solid } .fill { background: Highlight !important } }`;

const sheets = new WeakMap(); // document -> text -> its sheet
const RANK = { running: 0, queued: 1, success: 2, error: 2 };

export const rankOf = (job) => RANK[job.status];
export const isOver = (job) => rankOf(job) > 1;

export function h(tag, part, ...inner) {
  const element = document.createElement(tag);
  if (part) element.className = part;
  if (part) element.setAttribute("part", part);
  element.append(...inner);
  return element;
}

export function put(element, text) {
  if (element.textContent !== (text ??= "")) element.textContent = text;
  element.hidden = !text;
}

export function set(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export function button(part, act) {
  const element = h("button", part);
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

// Adopt a style sheet, of which each page has one. No style is an attribute, so strict policies allow it.
export function adopt(element, css = CSS) {
  const { shadowRoot: root, ownerDocument: page } = element, known = sheets.get(page) ?? {};
  if (!known[css]) (known[css] = new page.defaultView.CSSStyleSheet()).replaceSync(css);
  sheets.set(page, known);
  if (!root.adoptedStyleSheets.includes(known[css])) root.adoptedStyleSheets = [...root.adoptedStyleSheets, known[css]];
}

// What is seen of one job, or of a workflow, at one glance.
export class Row {
  constructor(host, tag, toggle, dismiss) {
    Object.assign(this, { host, _isDismissible: Boolean(dismiss) });
    this.name = button("name", () => toggle(this));
    this.stop = button("stop", () => host._order("cancel", this.job));
    this.rerun = button("rerun", () => host._order("rerun", this.job));
    this.dismiss = button("dismiss", () => dismiss(this));
    for (const part of ["attempt", "status", "time", "percent", "message"]) this[part] = h("span", part);
    this.when = h("time", "when");
    this.bar = h("div", "bar");
    const { name, attempt, status, time, stop, rerun, bar, percent, message, when } = this;
    this.buttons = [name, stop, rerun, this.dismiss];
    this.head = h("div", "head", h("div", "line1", name, attempt, status, time), h("div", "actions", stop, rerun, this.dismiss), h("div", "line2", bar, percent, message, when));
    this.root = h(tag, "job", this.head);
    name.dir = message.dir = "auto";
    percent.ariaHidden = "true";
    for (const [key, value] of [["role", "progressbar"], ["aria-valuemin", 0], ["aria-valuemax", 100]]) set(bar, key, value);
  }

  // `more`: another part and class, such as "member".
  update(job, isOpen, more = "") {
    const { words, _version: version } = this.host, look = `job ${job.status} ${more}`.trim();
    if (job === this.job && isOpen === this._isOpen && look === this._look && version === this._version) return;
    Object.assign(this, { job, _isOpen: isOpen, _look: look, _version: version });
    set(this.root, "data-job-id", job.job_id);
    set(this.root, "class", look);
    set(this.root, "part", look);
    put(this.name, words.name(job));
    set(this.name, "aria-expanded", isOpen);
    put(this.attempt, words.attempt(job));
    put(this.status, words.status(job));
    this.tick();
    this._drawBar(job, job.status === "success" ? 100 : job.progress);
    this._drawButtons(job, more);
    if (!job.members) this._drawDetails(job, isOpen);
  }

  tick() {
    if (!this.job) return;
    const { words, _notes: notes } = this.host;
    const { job } = this, began = job.started_at ? "started_at" : "queued_at", isTold = job[began] && job.status !== "running";
    put(this.time, words.time(job));
    put(this.when, isTold ? words.ago(job[began]) : "");
    this.time.title = this.when.title = job[began] ? `${words.say(began)}: ${words.moment(job[began])}` : "";
    this.when.dateTime = job[began] ?? "";
    put(this.message, notes.get(this.job.job_id) ?? words.message(this.job));
    this.message.title = this.message.textContent;
  }

  _drawBar(job, percent) {
    const { host: { words }, bar } = this, stages = job.stages ?? [{ weight: 1, progress: percent }];
    while (bar.children.length < stages.length) bar.append(h("span", "stage", h("span", "fill")));
    while (bar.children.length > stages.length) bar.lastChild.remove();
    stages.forEach(({ weight, progress }, place) => {
      const stage = bar.children[place], full = job.status === "success" ? 100 : Math.min(100, Math.max(0, progress ?? 0));
      stage.style.flexGrow = weight;
      stage.firstChild.style.inlineSize = `${full}%`;
    });
    const isUnknown = job.status === "running" && percent == null, shown = percent == null ? "" : words.percent(Math.floor(percent));
    bar.classList.toggle("wait", isUnknown);
    if (isUnknown) bar.removeAttribute("aria-valuenow");
    else set(bar, "aria-valuenow", Math.floor(percent ?? 0));
    set(bar, "aria-valuetext", [shown, job.stage, words.status(job)].filter(Boolean).join(", "));
    set(bar, "aria-label", words.name(job));
    put(this.percent, shown);
  }

  _drawButtons(job, more) {
    const { words, cancellable, rerun, dismissible, _may: may, _asked: asked, shadowRoot } = this.host, { activeElement: focused } = shadowRoot;
    const isEnd = isOver(job), isAsked = asked.has(job.job_id), isAlone = !job.members;
    const draw = (element, isShown, text, label = text) => {
      put(element, isShown ? text : "");
      set(element, "aria-label", `${label} ${words.name(job)}`);
    };
    draw(this.stop, cancellable && may.cancel && !isEnd && isAlone, words.say(isAsked ? "stopping" : "stop"));
    draw(this.rerun, rerun && may.rerun && isEnd && isAlone, words.say(isAsked ? "rerunning" : "rerun"));
    draw(this.dismiss, this._isDismissible && dismissible && isEnd && more !== "member", "✕", words.say("dismiss"));
    for (const one of [this.stop, this.rerun]) set(one, "aria-disabled", isAsked);
    if (focused?.hidden && this.buttons.includes(focused)) this.name.focus();
  }

  _drawDetails(job, isOpen) {
    if (!isOpen) return this.close();
    if (this.details) return this.details.update?.(job);
    const awaited = (this.details = {});
    import("./celery-realtime-details.js").then(({ JobDetails }) => {
      if (this.details !== awaited) return;
      this.details = new JobDetails(this.host, job.job_id);
      this.root.append(this.details.root);
      this.details.update(this.job);
      this.opened?.(this.details.root);
    });
  }

  close() {
    this.details?.close?.();
    this.details = null;
  }
}
