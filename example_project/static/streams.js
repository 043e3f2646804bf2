// Shows what a job says bit by bit: the words of an answer, the lines of a log. Nothing is followed that is folded up.

import { subscribeJob } from "/celery-realtime/celery-realtime-streams.js";
import { clock } from "./details.js";

// What is shown of each task that says something: the name of its stream, what to call it, and how to draw it.
const SPOKEN = {
  "example_project.tasks.answer": ["answer", "Answer", drawText],
  "example_project.tasks.backup": ["log", "Log", drawLines],
};
const STATES = { open: "going on", closed: "complete", failed: "broken off", cancelled: "stopped" };
const MAX_LINES = 500;
const RECENT = 600_000; // milliseconds: what ended before that is folded up

// Shows what a job says in the parts of its row, while they are open. Returns a function that ends it.
export function showSpeech({ speech, speechName, speechState, text, lines, earlier }, job, socket, isOver) {
  if (!SPOKEN[job.task]) return () => {};
  const [name, title, draw] = SPOKEN[job.task];
  const target = draw === drawText ? text : lines;
  const options = { projectId: job.project_id, ...(draw === drawLines && { tail: MAX_LINES }) };
  let followed = null;

  function tell({ state, error, streams }) {
    speechState.textContent = state === "refused" ? error.message : STATES[streams.get(name)?.state] ?? "nothing yet";
    target.setAttribute("aria-busy", state !== "subscribed" || streams.get(name)?.state === "open");
  }

  function take(stream, chunk) {
    if (stream.name !== name) return;
    const of = `${stream.generation} ${stream.start}`; // a retry begins anew, and what is too long has lost its beginning
    const goesOn = target.dataset.of === of;
    target.dataset.of = of;
    draw(target, goesOn ? chunk : stream.value, goesOn);
    if (draw === drawLines) drawEarlier(earlier, stream.position - target.children.length);
  }

  function toggle() {
    if (!speech.open) close();
    else followed ??= subscribeJob(socket, job.job_id, { ...options, onChunk: take, onChange: tell });
  }

  function close() {
    followed?.close();
    followed = null;
    delete target.dataset.of; // another subscription tells all of it again
  }

  speech.hidden = false;
  target.hidden = false;
  target.setAttribute("aria-label", title);
  speechName.textContent = title;
  speech.addEventListener("toggle", toggle);
  speech.open = !isOver || Date.now() - Date.parse(job.ended_at ?? job.timestamp) < RECENT;
  return () => {
    speech.removeEventListener("toggle", toggle);
    close();
  };
}

// One node of text that grows: what is there already is not drawn again.
function drawText(element, chunk, goesOn) {
  if (goesOn && element.firstChild) element.firstChild.appendData(chunk);
  else element.textContent = chunk;
}

function drawLines(list, items, goesOn) {
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 4;
  if (!goesOn) list.replaceChildren();
  list.append(...items.slice(-MAX_LINES).map(lineOf));
  while (list.children.length > MAX_LINES) list.firstElementChild.remove();
  if (isAtEnd || !goesOn) list.scrollTop = list.scrollHeight;
}

function drawEarlier(element, count) {
  element.hidden = count === 0;
  element.textContent = ["", "one earlier line"][count] ?? `${count} earlier lines`;
}

function lineOf({ time, level, logger, message }) {
  const line = document.getElementById("line-template").content.firstElementChild.cloneNode(true);
  const [when, how, where, what] = line.children;
  line.dataset.level = level;
  when.dateTime = time;
  when.textContent = clock(time);
  how.textContent = level;
  where.textContent = logger;
  what.textContent = message;
  return line;
}
