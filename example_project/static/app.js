// The page: choose a user and a project, start jobs, and follow every job of the project live.

import { isOver, withProgress, withSnapshot, withStatus } from "./jobs.js";

const ACK_TIMEOUT = 5000; // milliseconds
const TRY_AGAIN = 2000; // milliseconds
const MAX_ROWS = 300;
const SHORT_RESULT = 100; // characters; longer ones are folded away
const PASSING = ["unavailable", "too_many_requests"]; // refusals that may be over in a moment
const PLAIN_STATES = ["PENDING", "RECEIVED", "STARTED", "SUCCESS", "FAILURE"]; // the status says the same

const CONNECTION = {
  idle: "Not connected",
  connecting: "Connecting…",
  live: "Live",
  reconnecting: "Reconnecting…",
  refused: "Refused",
};

const $ = (id) => document.getElementById(id);
const starters = [...document.querySelectorAll("[data-kind]")];
const rows = new Map(); // job id -> its row and the parts of it
const changed = new Set(); // ids of jobs to draw in the next frame
let jobs = new Map(); // job id -> its latest state
let socket = null;
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

// Demo only: the tabs of a browser share one cookie, so each logs in again before it acts, one tab at a time, and two
// users fit side by side. (Without https, browsers have no locks except on this very machine.)
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

// The socket

function connect() {
  socket?.disconnect();
  setConnection("connecting");
  // Long polling would need sticky sessions as soon as there are two web processes, so it only stands in.
  socket = io({ auth: sendToken, transports: ["websocket", "polling"], tryAllTransports: true });
  socket.on("connect", subscribe);
  socket.on("agent_status", (event) => apply(event, withStatus));
  socket.on("agent_progress", (event) => apply(event, withProgress));
  socket.on("transcript_line", showLine);
  socket.on("error", showError);
  socket.on("disconnect", reconnect);
  socket.on("connect_error", explainFailure);
}

// Asked at each connection: a token that was good an hour ago may have expired.
async function sendToken(send) {
  const answer = await callAsUser("/token").catch(() => ({}));
  send({ token: answer.token });
}

// A refused subscription is answered twice: here, and in its acknowledgement, which knows what was asked for.
function showError(error) {
  if (connectionState() !== "refused") showNotice(error?.message ?? "The server refused that.");
}

function reconnect(reason) {
  const mine = socket;
  setConnection("reconnecting");
  // socket.io-client does not come back by itself when it was the server that hung up.
  if (reason === "io server disconnect") setTimeout(() => mine === socket && mine.connect(), TRY_AGAIN);
}

function explainFailure(error) {
  if (socket.active) return setConnection(connectionState() === "connecting" ? "connecting" : "reconnecting");
  setConnection("refused");
  showNotice(`The server refused the connection. ${error.message}`);
}

function subscribe() {
  const mine = socket;
  const wanted = project;
  mine.timeout(ACK_TIMEOUT).emit("subscribe_project", { project_id: wanted }, (failure, answer) => {
    if (mine !== socket || wanted !== project || !mine.connected) return;
    if (failure) return subscribeLater();
    if (answer.ok) return showSnapshot(answer.jobs ?? []);
    if (PASSING.includes(answer.error.code)) subscribeLater();
    else showRefusal(answer.error);
  });
}

function subscribeLater() {
  const mine = socket;
  setConnection("reconnecting");
  setTimeout(() => mine === socket && mine.connected && subscribe(), TRY_AGAIN);
}

function showSnapshot(snapshot) {
  setConnection("live");
  showNotice("");
  for (const element of snapshot) apply(element, withSnapshot);
  drawFrame();
}

function showRefusal(error) {
  setConnection("refused");
  const why = error.code === "forbidden" ? `${user} is not a member, so none of its jobs are shown.` : error.message;
  showNotice(`No access to ${project}. ${why}`);
}

// The jobs

function apply(event, reducer) {
  if (event.project_id !== project) return;
  const before = jobs.get(event.job_id);
  const after = reducer(before, event);
  if (after === before) return;
  if (before && !isOver(before) && isOver(after)) say(`${shortName(after.task)}: ${after.status}`);
  update(after);
}

function update(job) {
  jobs.set(job.job_id, job);
  if (changed.size === 0) requestAnimationFrame(drawFrame);
  changed.add(job.job_id);
}

function forgetJobs() {
  jobs = new Map();
  rows.clear();
  changed.clear();
  $("jobs").replaceChildren();
  drawSummary();
}

function forgetOldest() {
  for (const row of [...$("jobs").children].slice(MAX_ROWS)) {
    jobs.delete(row.dataset.jobId);
    rows.delete(row.dataset.jobId);
    row.remove();
  }
}

// Drawing. What jobs say is not trusted: it goes in as text, never as markup.

function drawFrame() {
  for (const id of changed) drawJob(jobs.get(id));
  changed.clear();
  forgetOldest();
  drawSummary();
}

function drawJob(job) {
  const row = rows.get(job.job_id) ?? addRow(job);
  row.root.dataset.status = job.status;
  row.root.dataset.attempt = job.attempt;
  put(row.task, shortName(job.task));
  put(row.status, job.status);
  put(row.state, PLAIN_STATES.includes(job.state) ? "" : job.state);
  put(row.attempt, job.attempt > 0 ? `retry ${job.attempt}` : "");
  put(row.message, messageOf(job), false);
  put(row.error, job.error);
  row.line.hidden = row.line.textContent === "" || isOver(job);
  drawBar(row, job);
  drawResult(row, job);
  drawTime(row, job);
}

function messageOf(job) {
  if (job.state === "RETRY") return "Waiting for the next attempt";
  return job.message ?? (job.status === "queued" ? "Waiting for a worker" : "");
}

function drawBar(row, job) {
  const percent = job.status === "success" ? 100 : Math.round(job.progress);
  row.bar.setAttribute("aria-valuenow", percent);
  row.bar.setAttribute("aria-valuetext", `${percent} %, ${job.status}`);
  row.fill.style.width = `${percent}%`;
  put(row.percent, `${percent} %`, false);
}

function drawResult(row, job) {
  const shown = job.status === "success" && (job.truncated || job.result != null);
  row.details.hidden = !shown;
  if (!shown) return;
  const text = job.truncated ? "Too long to be sent along." : JSON.stringify(job.result, null, 2);
  const line = onOneLine(text);
  const isShort = line.length <= SHORT_RESULT;
  if (row.result.textContent === (isShort ? line : text)) return;
  put(row.result, isShort ? line : text);
  row.summary.hidden = isShort;
  row.details.open = isShort;
}

// In JSON a line break is never part of a string.
function onOneLine(json) {
  return json.replace(/([[{])\n\s*/g, "$1").replace(/\n\s*([\]}])/g, "$1").replace(/\n\s*/g, " ");
}

function drawTime(row, job) {
  const end = isOver(job) ? Date.parse(job.timestamp) : Date.now();
  const begin = Date.parse(job.started ?? job.created);
  // Of a job that ended before this page was opened only the end is known.
  const unknown = isOver(job) && begin === end;
  const text = unknown ? clock(end) : duration(Math.max(0, end - begin), isOver(job) ? 1 : 0);
  put(row.time, text, false);
}

function drawSummary() {
  const counts = { queued: 0, running: 0, success: 0, error: 0 };
  for (const job of jobs.values()) counts[job.status] += 1;
  for (const [status, count] of Object.entries(counts)) {
    put(document.querySelector(`[data-count="${status}"]`), String(count), false);
  }
  drawEmpty();
}

function drawEmpty() {
  const state = connectionState();
  $("empty").hidden = jobs.size > 0;
  $("jobs").hidden = jobs.size === 0;
  put($("empty-title"), state === "refused" ? "Nothing to see here" : "No jobs yet", false);
  put($("empty-text"), emptyText(state), false);
}

function emptyText(state) {
  if (!user) return "Choose a user to begin.";
  if (state === "refused") return "Choose the user’s own project, or another user.";
  return "Start one with a button above. It appears here at once, and in every other window on this project.";
}

function addRow(job) {
  const root = $("job-template").content.firstElementChild.cloneNode(true);
  const row = { root };
  for (const part of root.querySelectorAll("[data-part]")) row[part.dataset.part] = part;
  root.dataset.jobId = job.job_id;
  row.task.title = job.task ?? "";
  row.task.id = `job-${job.job_id}`;
  row.bar.setAttribute("aria-labelledby", row.task.id);
  row.id.title = job.job_id;
  put(row.id, job.job_id.slice(0, 8));
  rows.set(job.job_id, row);
  insertNewestFirst(root, job);
  return row;
}

function insertNewestFirst(root, job) {
  const created = Date.parse(job.created);
  const isOlder = (other) => Date.parse(jobs.get(other.dataset.jobId).created) <= created;
  const next = [...$("jobs").children].find(isOlder);
  $("jobs").insertBefore(root, next ?? null);
}

function showLine(data) {
  const row = rows.get(data?._realtime?.job_id);
  if (!row) return;
  put(row.line, `“${data.text}”`);
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
  $("connection").dataset.state = state;
  put($("connection-text"), CONNECTION[state], false);
  // What is shown may be old now: nothing on the page should pretend to move.
  $("jobs").toggleAttribute("data-stale", state !== "live");
  for (const button of starters) button.disabled = !user;
  drawEmpty();
}

function connectionState() {
  return $("connection").dataset.state;
}

function shortName(task) {
  return (task ?? "job").split(".").pop();
}

function duration(milliseconds, decimals) {
  const seconds = milliseconds / 1000;
  if (seconds < 60) return `${seconds.toFixed(decimals)} s`;
  return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
}

function clock(time) {
  return new Date(time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

function drawRunningTimes() {
  if (connectionState() !== "live") return;
  for (const job of jobs.values()) if (!isOver(job) && rows.has(job.job_id)) drawTime(rows.get(job.job_id), job);
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
  forgetJobs();
  showNotice("");
  rememberInAddress();
  if (user) return connect();
  socket?.disconnect();
  socket = null;
  setConnection("idle");
}

function chooseProject(name) {
  const left = project;
  project = name;
  put($("project-name"), project);
  forgetJobs();
  showNotice("");
  rememberInAddress();
  if (!socket?.connected) return;
  if (left) socket.emit("unsubscribe_project", { project_id: left });
  setConnection("connecting");
  subscribe();
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
