// What an element shows of a job once it is opened: facts, error, result, and what the job says, bit by bit.

import { adopt, button, h, put, set } from "./celery-realtime-row.js";
import { jobStore } from "./celery-realtime-store.js";

const MAX_LINES = 500; // of a log, or items
const MAX_TEXT = 65536; // of a text stream
const FACTS = ["task", "job_id", "rerun_of", "attempt", "worker", "queue", "priority", "time_limit", "queued_at", "started_at", "ended_at"];
const STAGES = { done: "success", failed: "error" }; // keys of texts, where they have another name
const STATES = { open: "writing", closed: "complete", failed: "broken", cancelled: "REVOKED" };
const LEVEL = /^(DEBUG|INFO|WARNING|ERROR|CRITICAL)$/;

const CSS = `
li .details { border-block-end: 1px solid var(--_line); padding-block-start: .6rem } .member .details { padding-inline-start: 2rem }
.details { padding: .25rem .75rem .75rem; display: grid; grid-template-columns: minmax(0, 1fr); gap: .5rem }
.facts, .metadata { display: flex; flex-wrap: wrap; gap: .1rem 1.25rem; font-size: .875em } dt { color: var(--_muted) } dt, dd { display: inline; overflow-wrap: anywhere }
.title { font-size: .875em; font-weight: 600 } .title::first-letter { text-transform: uppercase } .stream-state { color: var(--_muted); font-weight: 400 }
.steps { display: grid; grid-template-columns: auto minmax(3rem, 1fr) auto; gap: .1rem .75rem; align-items: center; font-size: .875em; padding: 0; list-style: none } .step { display: contents } .track { block-size: .35rem; border-radius: 9rem; background: var(--_line); overflow: hidden } .share { display: block; block-size: 100%; background: var(--_accent) } .done .share { background: var(--_success) } .failed .share { background: var(--_error) } .step.pending { color: var(--_muted) } .step.failed { color: var(--_error) } .problem { color: var(--_error); overflow-wrap: anywhere }
pre { max-block-size: 16rem; overflow: auto; padding: .5rem; border: 1px solid var(--_line); border-radius: calc(var(--_radius) / 2); font: .8125em/1.45 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; text-align: start; unicode-bidi: plaintext }
.text { font: inherit; font-size: .9375em } .line { display: block } .clock { color: var(--_muted) } .WARNING { color: var(--_accent) } .ERROR, .CRITICAL { color: var(--_error) }`;

export class JobDetails {
  _views = new Map(); // stream -> its view

  constructor(host, jobId) {
    this._host = host;
    this._facts = h("dl", "facts");
    this._error = h("p", "problem");
    this._steps = h("ul", "steps");
    this._steps.role = "list";
    this._metaTitle = h("p", "title");
    this._metadata = h("dl", "metadata");
    this._title = h("p", "title");
    this._result = h("pre", "result");
    this._load = button("load", () => this._loadResult());
    Object.assign(this._result, { tabIndex: 0, role: "region" });
    this.root = h("div", "details", this._error, this._steps, this._title, this._result, this._load, this._metaTitle, this._metadata, this._facts);
    adopt(host, CSS);
    this._store = jobStore(host._at.socket, jobId, { projectId: host.project ?? undefined });
    this._leave = this._store.subscribe(() => {
      this._frame ??= requestAnimationFrame(() => { this._frame = null; this._drawStreams(); });
    });
    this._drawStreams();
  }

  close() {
    cancelAnimationFrame(this._frame);
    this._leave();
    this.root.remove();
  }

  update(job) {
    const { words } = this._host;
    if (this._job === job && this._words === words) return;
    if (this._job?.attempt !== job.attempt || this._job?.status !== job.status) this._loaded = undefined;
    Object.assign(this, { _job: job, _words: words });
    this._drawFacts(job, words);
    this._drawSteps(job, words);
    put(this._error, job.traceback ?? job.error);
    const value = this._loaded ?? job.result;
    put(this._result, job.status === "success" && value != null ? textOf(value) : "");
    put(this._load, job.truncated && this._loaded === undefined ? words.say("load") : "");
    put(this._title, this._result.hidden && this._load.hidden ? "" : words.say("result"));
    set(this._result, "aria-label", words.say("result"));
    this._drawStreams();
  }

  _drawFacts(job, words) {
    const shown = FACTS.filter((name) => job[name] != null && (name !== "attempt" || job.attempt)).map((name) => {
      const value = name.endsWith("_at") ? words.moment(job[name]) : name === "attempt" ? job.attempt + 1 : name === "time_limit" ? words.duration(job[name]) : job[name];
      return [words.say(name), String(value)];
    });
    const metadata = Object.entries(job.metadata ?? {}).map(([name, value]) => [name, textOf(value, 0)]);
    drawPairs(this._facts, shown);
    drawPairs(this._metadata, metadata);
    put(this._metaTitle, metadata.length ? words.say("metadata") : "");
  }

  // Its stages, with their names.
  _drawSteps({ stages = [] }, words) {
    const { children } = this._steps;
    set(this._steps, "aria-label", words.say("stages"));
    this._steps.hidden = !stages.length;
    while (children.length > stages.length) children[stages.length].remove();
    stages.forEach(({ name, status, progress }, place) => {
      const step = children[place] ?? this._steps.appendChild(h("li", "step", h("span"), h("span", "track", h("span", "share")), h("span", "progress")));
      const [title, track, percent] = step.children, look = `step ${status}`;
      set(step, "class", look);
      set(step, "part", look);
      put(title, name);
      put(percent, `${words.percent(Math.floor(progress))} ${words.say(STAGES[status] ?? status)}`);
      track.firstChild.style.inlineSize = `${progress}%`;
    });
  }

  async _loadResult() {
    set(this._load, "aria-disabled", true);
    const job = this._job, answer = await this._host._ask("get_result", job);
    set(this._load, "aria-disabled", false);
    if (job.attempt !== this._job.attempt) return;
    if (answer.ok && !answer.truncated) this._loaded = answer.result;
    else this._host._say(this._words.say("failing", { why: answer.error?.message ?? "" }));
    this._words = null;
    this.update(this._job);
  }

  // Of an element with `streams`, those that it names.
  _drawStreams() {
    const names = this._host.streams?.split(/[\s,]+/).filter(Boolean);
    for (const stream of this._store.getSnapshot().streams.values()) {
      if (names && !names.includes(stream.name)) continue;
      const view = this._views.get(stream.name) ?? this._addView(stream);
      const { words } = this._host;
      const count = stream.kind === "json" && stream.value.length > MAX_LINES;
      const title = stream.name === "log" ? words.say("log") : stream.name;
      put(view.name, count ? words.say("lines", { name: title, n: MAX_LINES, total: stream.position }) : title);
      put(view.state, words.say(STATES[stream.state]));
      set(view.body, "aria-label", title);
      const isAtEnd = view.body.scrollTop + view.body.clientHeight >= view.body.scrollHeight - 8;
      if (stream.kind === "text") drawText(view, stream);
      else this._drawItems(view, stream, words);
      if (isAtEnd) view.body.scrollTop = view.body.scrollHeight;
    }
  }

  _addView({ name, kind }) {
    const view = { name: h("span"), state: h("span", "stream-state"), body: h("pre", `stream ${kind === "text" ? "text" : "items"}`), from: 0, until: 0 };
    Object.assign(view.body, { tabIndex: 0, role: "region" });
    this._views.set(name, view);
    this._metaTitle.before(h("p", "title", view.name, " ", view.state), view.body);
    return view;
  }

  // What is new is added; items are shown from `view.from` up to `view.until`.
  _drawItems(view, { value, start, position, generation }, words) {
    const first = Math.max(start, position - MAX_LINES);
    if (view.generation !== generation || first > view.until) {
      view.body.replaceChildren();
      Object.assign(view, { generation, from: first, until: first });
    }
    const added = value.slice(view.until - start).map((item) => this._line(item, words));
    view.body.append(...added);
    for (; view.from < first; view.from++) view.body.firstChild.remove();
    view.until = position;
  }

  _line(item, words) {
    const isRecord = typeof item?.message === "string" && LEVEL.test(item.level);
    if (!isRecord) return h("span", "line", textOf(item, 0));
    const line = h("span", "line", h("span", "clock", clockOf(item.time, words)), ` ${item.level} `, item.logger ? `${item.logger}: ` : "", item.message);
    line.classList.add(item.level);
    line.part.add(item.level);
    return line;
  }
}

function drawPairs(list, pairs) {
  const text = JSON.stringify(pairs);
  if (text === list.shown) return;
  list.shown = text;
  list.hidden = !pairs.length;
  list.replaceChildren(...pairs.flatMap(([name, value]) => [h("div", "", h("dt", "", name), " ", h("dd", "fact", value))]));
}

function drawText({ body }, { value }) {
  const shown = value.length > MAX_TEXT ? `…${value.slice(-MAX_TEXT)}` : value;
  const text = body.firstChild ?? body.appendChild(document.createTextNode(""));
  if (shown.startsWith(text.data)) text.appendData(shown.slice(text.length));
  else text.data = shown;
}

function clockOf(time, words) {
  const date = new Date(typeof time === "number" ? time * 1000 : time);
  return Number.isNaN(date.getTime()) ? "" : words.clock(date, true);
}

const textOf = (value, indent = 2) => (typeof value === "string" ? value : JSON.stringify(value, null, indent));
