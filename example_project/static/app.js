// The page: choose a user and a project, start jobs, and follow all jobs of the project live.

import { keepToken } from "/celery-realtime/celery-realtime-token.js";
import { subscribeProject } from "/celery-realtime/celery-realtime.js";
import { attemptOf, clock, duration, factsOf, ranFor, waitingOf } from "./details.js";
import { drawStages } from "./stages.js";
import { showSpeech } from "./streams.js";

const MAX_ROWS = 300; // of the newest jobs
const MAX_JOBS = 10_000; // that are counted
const MAX_WORKFLOWS = 5;
const STOP_TIMEOUT = 15_000; // milliseconds
const SHORT_RESULT = 100; // characters; longer results are collapsed
const PLAIN_STATES = ["PENDING", "RECEIVED", "STARTED", "SUCCESS", "FAILURE"]; // states that add nothing to the status

// The page's data-state and text for each state of its subscription.
const SHOWN = {
  idle: ["idle", "Not connected"],
  subscribing: ["connecting", "Connecting…"],
  subscribed: ["live", "Live"],
  stale: ["reconnecting", "Out of date, reconnecting…"],
  refused: ["refused", "Refused"],
};

const $ = (id) => document.getElementById(id);
const starters = [...document.querySelectorAll("[data-kind]")];
const rows = new Map(); // job id -> its row and the row's parts
const bars = new Map(); // root id -> its workflow's bar and the bar's parts
const times = new Map(); // job id -> when its first event came, and when it started
const lines = new Map(); // job id -> the latest line of its transcript
const changed = new Set(); // ids of jobs to draw in the next frame
let drawing = false; // a frame has been requested
let socket = null;
let leave = () => {}; // stops renewing the token of the socket
let followed = null; // the subscription
let user = "";
let project = "";

// Talking to the web server

async function call(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const response = await fetch(path, options).catch(() => {
    throw new Error("The web server does not answer.");
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error?.message ?? `The server answered ${response.status}.`);
  return answer;
}

// Demo only: the tabs of a browser share one cookie, so each tab logs in again before each request, one tab at a time;
// two users can then be open side by side. (Without https, browsers have locks on localhost only.)
function callAsUser(path, body) {
  const act = () => call("/login", { user }).then(() => call(path, body));
  return navigator.locks ? navigator.locks.request("login", act) : act();
}

async function startJobs(kind) {
  try {
    await callAsUser("/jobs", { kind, project_id: project });
    showNotice("");
  } catch (error) {
    showNotice(`Not started. ${error.message}`);
  }
}

// `cancel: "requested"`: the button goes when the job has ended.
async function stopJob(job, button) {
  if (button.getAttribute("aria-disabled") === "true") return;
  showStopping(button, job, true);
  const request = { job_id: job.job_id, project_id: job.project_id };
  const answer = await socket.timeout(STOP_TIMEOUT).emitWithAck("cancel_job", request).catch(() => null);
  if (answer?.ok && answer.how !== "unconfirmed") return;
  showStopping(button, job, false);
  const why = answer?.ok ? "The worker has not confirmed it." : answer?.error?.message ?? "The web server does not answer.";
  showNotice(`${nameOf(job)} may not have been stopped. ${why}`);
}

// Not `disabled`, which would take the focus away.
function showStopping(button, job, isStopping) {
  const text = isStopping ? "Stopping…" : "Stop";
  button.setAttribute("aria-disabled", isStopping);
  button.setAttribute("aria-label", `${text} ${nameOf(job)}`);
  put(button, text);
}

// The socket

function connect() {
  disconnect();
  // Long polling needs sticky sessions with more than one web process, so it is only the fallback.
  socket = io({ autoConnect: false, transports: ["websocket", "polling"], tryAllTransports: true });
  leave = keepToken(socket, () => callAsUser("/token").then((answer) => answer.token));
  socket.on("error", showError);
  follow();
  socket.connect();
}

function disconnect() {
  followed?.close();
  followed = null;
  leave();
  socket?.disconnect();
  socket = null;
}

function follow() {
  followed?.close();
  followed = subscribeProject(socket, project, { maxJobs: MAX_JOBS, onStatus: noteStatus, onEvent: showEvent, onChange: show });
  showState();
}

// A refused subscription is reported twice: here, and by the subscription itself.
function showError(error) {
  if (followed?.state === "subscribed") showNotice(error?.message ?? "The server refused that.");
}

function show(subscription, change) {
  if (change.reason === "state") return showState();
  if (change.reason === "jobs") return update(change.key);
  if (change.reason === "workflows") return drawSoon();
  if (change.reason === "snapshot") showSnapshot(subscription.jobs);
}

function showState() {
  setConnection(followed.state);
  if (followed.state === "subscribed") showNotice("");
  if (followed.state === "refused") showRefusal(followed.error);
}

// Events may have been missed: the snapshot replaces everything.
function showSnapshot(jobs) {
  for (const id of [...times.keys()].filter((id) => !jobs.has(id))) forgetRow(id);
  for (const id of jobs.keys()) update(id);
  drawFrame();
}

function showRefusal(error) {
  const why = error?.code === "forbidden" ? `${user} is not a member, so none of its jobs are shown.` : error?.message ?? "";
  showNotice(`No access to ${project}. ${why}`);
}

// The jobs

// After access is lost, earlier data must not stay visible.
const known = (kind) => (followed && followed.state !== "refused" ? followed[kind] : new Map());
const jobs = () => known("jobs");
const isOver = (job) => job.status === "success" || job.status === "error";

function noteStatus(status) {
  noteTime(status);
  if (isOver(status)) say(`${nameOf(status)}: ${status.status}`);
}

function noteTime({ job_id, status, timestamp }) {
  const before = times.get(job_id);
  const started = before?.started ?? (status === "running" ? timestamp : null);
  times.set(job_id, { created: before?.created ?? timestamp, started });
}

function update(id) {
  changed.add(id);
  drawSoon();
}

function drawSoon() {
  if (!drawing) requestAnimationFrame(drawFrame);
  drawing = true;
}

function forgetRows() {
  for (const id of [...rows.keys()]) removeRow(id);
  for (const one of [times, lines, changed]) one.clear();
  drawSummary();
}

function forgetRow(id) {
  removeRow(id);
  for (const one of [times, lines, changed]) one.delete(id);
}

function removeRow(id) {
  const row = rows.get(id);
  row?.endSpeech();
  row?.root.remove();
  rows.delete(id);
}

function removeOldest() {
  for (const row of [...$("jobs").children].slice(MAX_ROWS)) removeRow(row.dataset.jobId);
}

// The subscription drops ended jobs beyond MAX_JOBS, so there may be times of jobs that it no longer has.
function forgetDropped(latest) {
  if (times.size <= 2 * MAX_JOBS) return;
  for (const id of [...times.keys()].filter((id) => !latest.has(id))) forgetRow(id);
}

// Drawing. Data from jobs is not trusted: it is inserted as text, never as markup.

function drawFrame() {
  drawing = false;
  const latest = jobs();
  for (const id of changed) latest.has(id) ? drawJob(latest.get(id)) : forgetRow(id);
  changed.clear();
  removeOldest();
  for (const id of [...rows.keys()].filter((id) => !latest.has(id))) forgetRow(id);
  forgetDropped(latest);
  drawSummary();
}

function drawJob(job) {
  if (!times.has(job.job_id)) noteTime(job);
  if (!rows.has(job.job_id) && isTooOld(job.job_id)) return;
  const row = rows.get(job.job_id) ?? addRow(job);
  row.root.dataset.status = job.status;
  row.root.dataset.attempt = job.attempt;
  put(row.task, nameOf(job));
  put(row.status, job.status);
  put(row.state, PLAIN_STATES.includes(job.state) ? "" : job.state);
  put(row.attempt, attemptOf(job));
  put(row.message, messageOf(job), false);
  put(row.error, job.error);
  put(row.line, isOver(job) ? "" : lines.get(job.job_id));
  drawBar(row, job);
  drawStages(row.stages, job.stages);
  drawResult(row, job);
  drawTime(row, job);
  drawFacts(row, job);
  drawStop(row, job);
}

// Whether there are enough rows of newer jobs.
function isTooOld(id) {
  const last = rows.size >= MAX_ROWS && $("jobs").children[MAX_ROWS - 1];
  return last && createdAt(id) < createdAt(last.dataset.jobId);
}

const createdAt = (id) => Date.parse(jobs().get(id)?.queued_at ?? times.get(id).created);

function messageOf(job) {
  return job.status === "queued" ? waitingOf(job) : job.message ?? "";
}

function drawBar(row, job) {
  const percent = job.status === "success" ? 100 : Math.round(job.progress ?? 0);
  fillBar(row, percent, job.status);
}

function fillBar(row, percent, status) {
  row.bar.setAttribute("aria-valuenow", percent);
  row.bar.setAttribute("aria-valuetext", `${percent} %, ${status}`);
  row.fill.style.width = `${percent}%`;
  put(row.percent, `${percent} %`, false);
}

function drawResult(row, job) {
  const shown = job.status === "success" && (job.truncated || job.result != null);
  row.details.hidden = !shown;
  if (!shown) return;
  const text = job.truncated ? "The result is too large to be shown here." : JSON.stringify(job.result, null, 2);
  const line = onOneLine(text);
  const isShort = line.length <= SHORT_RESULT;
  if (row.result.textContent === (isShort ? line : text)) return;
  put(row.result, isShort ? line : text);
  row.summary.hidden = isShort;
  row.details.open = isShort;
}

// In JSON, line breaks never occur inside strings.
function onOneLine(json) {
  return json.replace(/([[{])\n\s*/g, "$1").replace(/\n\s*([\]}])/g, "$1").replace(/\n\s*/g, " ");
}

function drawTime(row, job) {
  const end = isOver(job) ? Date.parse(job.ended_at ?? job.timestamp) : Date.now();
  const { started, created } = times.get(job.job_id);
  const queued = job.queued_at ?? created;
  const begin = Date.parse(job.status === "queued" ? queued : job.started_at ?? started ?? queued);
  // If a job ended before this page was opened, only its end is known.
  const unknown = isOver(job) && begin === end;
  const text = unknown ? clock(end) : duration(Math.max(0, end - begin), 1);
  put(row.time, ranFor(job) || text, false);
  if (job.status === "queued") put(row.message, messageOf(job), false);
}

function drawFacts(row, job) {
  const facts = factsOf(job);
  const drawn = JSON.stringify(facts);
  if (row.drawnFacts === drawn) return;
  row.drawnFacts = drawn;
  row.facts.hidden = facts.length === 0;
  row.facts.replaceChildren(...facts.flatMap(([name, text, time]) => {
    const fact = $("fact-template").content.firstElementChild.cloneNode(true);
    const [term, value] = fact.children;
    put(term, name);
    if (time) value.append(timeElement(text, time));
    else put(value, text);
    return [fact, " "];
  }));
}

function timeElement(text, time) {
  const element = document.createElement("time");
  return Object.assign(element, { textContent: text, dateTime: time, title: new Date(time).toLocaleString() });
}

// Whoever has stopped it by the keyboard stays at the job.
function drawStop(row, job) {
  const hadFocus = document.activeElement === row.stop;
  row.stop.hidden = isOver(job);
  if (hadFocus && row.stop.hidden) row.root.focus();
}

function drawSummary() {
  const counts = { queued: 0, running: 0, success: 0, error: 0 };
  for (const job of jobs().values()) counts[job.status] += 1;
  for (const [status, count] of Object.entries(counts)) {
    put(document.querySelector(`[data-count="${status}"]`), String(count), false);
  }
  drawWorkflows();
  drawEmpty();
}

// Only workflows with a visible row: the row gives the workflow's name and age.
function drawWorkflows() {
  const latest = known("workflows");
  const shown = [...firstRows()].filter(([root]) => latest.get(root)?.total > 1).slice(0, MAX_WORKFLOWS);
  const ids = new Set(shown.map(([root]) => root));
  for (const id of [...bars.keys()].filter((root) => !ids.has(root))) forgetBar(id);
  for (const [root, job] of shown.reverse()) drawWorkflow(latest.get(root), job);
  $("workflows").hidden = bars.size === 0;
}

function forgetBar(id) {
  bars.get(id).root.remove();
  bars.delete(id);
}

// Root id -> the first job of its workflow, the newest workflow first.
function firstRows() {
  const first = new Map();
  for (const { dataset } of $("jobs").children) {
    const job = jobs().get(dataset.jobId);
    if (job) first.set(job.root_id, job);
  }
  return first;
}

function drawWorkflow(flow, job) {
  const bar = bars.get(flow.root_id) ?? addWorkflow(flow, job);
  const status = statusOf(flow);
  bar.root.dataset.status = status;
  put(bar.sum, `${flow.done} of ${flow.total} done${flow.failed > 0 ? `, ${flow.failed} failed` : ""}`);
  fillBar(bar, flow.progress, status);
}

function statusOf({ queued, running, failed, total }) {
  if (queued === total) return "queued";
  if (queued + running > 0) return "running";
  return failed > 0 ? "error" : "success";
}

function drawEmpty() {
  const state = followed?.state;
  const empty = rows.size === 0 || state === "refused";
  $("empty").hidden = !empty;
  $("jobs").hidden = empty;
  put($("empty-title"), state === "refused" ? "No access" : "No jobs yet", false);
  put($("empty-text"), emptyText(state), false);
}

function emptyText(state) {
  if (!user) return "Choose a user to begin.";
  if (state === "refused") return "Choose the user’s own project, or another user.";
  return "Start one with a button above. It appears here immediately, and in every other window that shows this project.";
}

function copyOf(template) {
  const root = $(template).content.firstElementChild.cloneNode(true);
  const parts = { root };
  for (const part of root.querySelectorAll("[data-part]")) parts[part.dataset.part] = part;
  return parts;
}

function addWorkflow(flow, job) {
  const bar = copyOf("workflow-template");
  bar.root.dataset.rootId = flow.root_id;
  bar.task.id = `workflow-${flow.root_id}`;
  bar.bar.setAttribute("aria-labelledby", bar.task.id);
  put(bar.task, `Workflow of ${shortName(job.task)}`);
  bars.set(flow.root_id, bar);
  $("workflows").prepend(bar.root);
  return bar;
}

function addRow(job) {
  const row = copyOf("job-template");
  const { root } = row;
  root.dataset.jobId = job.job_id;
  row.task.title = job.task ?? "";
  row.task.id = `job-${job.job_id}`;
  row.bar.setAttribute("aria-labelledby", row.task.id);
  row.id.title = job.job_id;
  put(row.id, job.job_id.slice(0, 8));
  showStopping(row.stop, job, false);
  row.stop.addEventListener("click", () => stopJob(job, row.stop));
  row.endSpeech = showSpeech(row, job, socket, isOver(job));
  rows.set(job.job_id, row);
  insertNewestFirst(root, job);
  return row;
}

function insertNewestFirst(root, job) {
  const created = createdAt(job.job_id);
  const isOlder = (other) => createdAt(other.dataset.jobId) <= created;
  const next = [...$("jobs").children].find(isOlder);
  $("jobs").insertBefore(root, next ?? null);
}

function showEvent(name, data) {
  const id = data?._realtime?.job_id;
  if (name !== "transcript_line" || !id) return;
  lines.set(id, `“${data.text}”`);
  update(id);
}

// Text and small things

function put(element, text, hideEmpty = true) {
  const value = text ?? "";
  if (element.textContent !== value) element.textContent = value;
  if (hideEmpty) element.hidden = value === "";
}

function say(text) {
  $("announcer").textContent = text;
}

function showNotice(text) {
  put($("notice"), text);
}

function setConnection(state) {
  const [shown, text] = SHOWN[state];
  Object.assign($("connection").dataset, { state: shown, subscription: state });
  put($("connection-text"), text, false);
  // The data may be out of date now, so nothing on the page may appear to move.
  for (const id of ["counts", "workflows", "jobs"]) $(id).toggleAttribute("data-stale", state !== "subscribed");
  for (const button of starters) button.disabled = !user;
  drawSummary();
}

// What a person calls it, if somebody has said so.
const nameOf = (job) => job.label ?? shortName(job.task);

function shortName(task) {
  return (task ?? "job").split(".").pop();
}

function drawRunningTimes() {
  if (followed?.state !== "subscribed") return;
  for (const [id, row] of rows) {
    const job = jobs().get(id);
    if (job && !isOver(job)) drawTime(row, job);
  }
}

// Choosing

function rememberInAddress() {
  const address = new URL(location.href);
  address.searchParams.set("user", user);
  address.searchParams.set("project", project);
  history.replaceState(null, "", address);
}

function chooseUser(name) {
  user = name;
  forgetRows();
  showNotice("");
  rememberInAddress();
  if (user) return connect();
  disconnect();
  setConnection("idle");
}

function chooseProject(name) {
  project = name;
  put($("project-name"), project);
  forgetRows();
  showNotice("");
  rememberInAddress();
  if (socket) follow();
}

function preselect(select, wanted) {
  if ([...select.options].some((option) => option.value === wanted)) select.value = wanted;
}

function begin() {
  const wanted = new URLSearchParams(location.search);
  preselect($("user"), wanted.get("user"));
  preselect($("project"), wanted.get("project"));
  $("user").addEventListener("change", () => chooseUser($("user").value));
  $("project").addEventListener("change", () => chooseProject($("project").value));
  for (const button of starters) button.addEventListener("click", () => startJobs(button.dataset.kind));
  setInterval(drawRunningTimes, 500);
  chooseProject($("project").value);
  chooseUser($("user").value);
}

begin();
