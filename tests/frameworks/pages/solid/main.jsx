import { createSignal, For, Show } from "solid-js";
import { render } from "solid-js/web";
import { cancelJob, createJob, createProject, createStream, rerunJob } from "celery-realtime/solid";

import { note, other, project, socket } from "../shared.js";

function Row(props) {
  return <li data-job={props.job.job_id} data-status={props.job.status}>{note(props.job.job_id)}{props.job.progress}</li>;
}

function Jobs(props) {
  const shown = createProject(socket, () => props.projectId, () => ({ enabled: props.enabled }));
  return (
    <ul id="jobs" data-status={shown.status} data-error={shown.error?.code}>
      <For each={[...shown.jobs.values()]}>{(job) => <Row job={job} />}</For>
    </ul>
  );
}

function Count(props) {
  const shown = createProject(socket, () => props.projectId, () => ({ enabled: props.enabled }));
  return <p id="count">{shown.jobs.size}</p>;
}

function Answer(props) {
  const shown = createJob(socket, () => props.jobId);
  const spoken = createStream(socket, () => props.jobId, "answer");
  const [answer, setAnswer] = createSignal(null);
  return (
    <section id="answer" data-job-status={shown.job?.status} data-state={spoken.stream?.state}>
      <pre>{spoken.text}</pre>
      <button id="cancel" onClick={async () => setAnswer(await cancelJob(socket, props.jobId))}>Stop</button>
      <button id="rerun" onClick={async () => setAnswer(await rerunJob(socket, props.jobId))}>Again</button>
      <output>{answer()?.cancel ?? answer()?.job_id ?? answer()?.error?.code}</output>
    </section>
  );
}

function Page() {
  const [projectId, setProjectId] = createSignal(project);
  const [isShown, setShown] = createSignal(true);
  const [enabled, setEnabled] = createSignal(true);
  const [jobId, setJobId] = createSignal("");
  return (
    <main>
      <button id="switch" onClick={() => setProjectId(projectId() === project ? other : project)}>Switch</button>
      <button id="toggle" onClick={() => setShown(!isShown())}>Show or hide</button>
      <button id="enable" onClick={() => setEnabled(!enabled())}>Enable or disable</button>
      <input id="job" onInput={(event) => setJobId(event.target.value)} />
      <Show when={isShown()}>
        <Jobs projectId={projectId()} enabled={enabled()} />
        <Count projectId={projectId()} enabled={enabled()} />
      </Show>
      <Answer jobId={jobId()} />
    </main>
  );
}

render(() => <Page />, document.getElementById("root"));
