// The page around <celery-project>: choose a user and a project, start jobs, and say whether what is shown is live.

import "/celery-realtime/celery-realtime-element.js";
import { projectStore } from "/celery-realtime/celery-realtime-store.js";

const $ = (id) => document.getElementById(id);
const texts = JSON.parse(document.body.dataset.texts);
const say = (key, values = {}) => texts[key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
const starters = [...document.querySelectorAll("[data-kind]")];
const TOLD = ["answer", "episode", "backup"]; // kinds of jobs that have more to show than a line
const jobs = $("jobs");
let user = "";
let leave = () => {}; // what hears custom events

async function call(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, options).catch(() => { throw new Error(say("offline")); });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error?.message ?? `${response.status}`);
  return answer;
}

// Demo only: the tabs of a browser share one cookie, so each tab logs in again before each request, one tab at a time;
// two users can then be open side by side. (Without https, browsers have locks on localhost only.)
function callAsUser(name, path, body) {
  const act = () => call("/login", { user: name }).then(() => call(path, body));
  return navigator.locks ? navigator.locks.request("login", act) : act();
}

async function startJobs(kind) {
  try {
    const { jobs: ids } = await callAsUser(user, "/jobs", { kind, project_id: jobs.project });
    if (TOLD.includes(kind)) jobs.openJob(ids[0]);
    show($("notice"), "");
  } catch (error) {
    show($("notice"), `${say("not_started")} ${error.message}`);
  }
}

// What is shown of the subscription: "idle" is no state of it, but that nobody has been chosen.
function showState({ state, error }) {
  const { project } = jobs, isLive = state === "subscribed";
  Object.assign($("connection").dataset, { state });
  $("connection").textContent = say(state);
  jobs.toggleAttribute("data-stale", !isLive);
  jobs.hidden = state === "idle" || state === "refused";
  const why = error?.code === "forbidden" ? say("no_member", { user, project }) : error?.message;
  if (state === "refused" || isLive) show($("notice"), isLive ? "" : why);
  if (isLive) followEvents();
}

// Custom events of jobs, such as `self.emit("transcript_line", {"text": ...})`, over the subscription that the element has.
function followEvents() {
  leave();
  leave = projectStore(jobs.socket, jobs.project, { onEvent: showEvent }).subscribe(() => {});
}

function showEvent(name, data) {
  if (name !== "transcript_line") return;
  show($("caption"), `“${data.text}”`);
  $("caption").dataset.jobId = data._realtime.job_id;
}

function show(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}

// Another token is another connection; without anybody there is none.
function choose() {
  const name = $("user").value, address = new URL(location.href);
  jobs.project = $("project").value;
  if (name !== user || !name) {
    jobs.socket = name ? undefined : null;
    jobs.token = name ? () => callAsUser(name, "/token").then((answer) => answer.token) : null;
  }
  user = name;
  for (const button of starters) button.disabled = !user;
  leave();
  for (const id of ["notice", "caption"]) show($(id), "");
  showState({ state: user ? "subscribing" : "idle" });
  for (const one of ["user", "project"]) address.searchParams.set(one, $(one).value);
  history.replaceState(null, "", address);
}

function preselect(select, wanted) {
  if ([...select.options].some((option) => option.value === wanted)) select.value = wanted;
}

jobs.addEventListener("celery-state", ({ detail }) => { if (user && detail.state in texts) showState(detail); });
jobs.addEventListener("celery-job-end", ({ detail: { job } }) => {
  if ($("caption").dataset.jobId === job.job_id) show($("caption"), "");
});
for (const id of ["user", "project"]) {
  preselect($(id), new URLSearchParams(location.search).get(id));
  $(id).addEventListener("change", choose);
}
for (const button of starters) button.addEventListener("click", () => startJobs(button.dataset.kind));
choose();
