import { memo, StrictMode, Suspense, useState } from "react";
import { createRoot } from "react-dom/client";
import { RealtimeProvider, useCancel, useJob, useProject, useRerun, useStream } from "celery-realtime/react";

import { note, other, project, socket } from "../shared.js";

const Row = memo(function Row({ job }) {
  note(job.job_id);
  return <li data-job={job.job_id} data-status={job.status}>{job.progress}</li>;
});

function Jobs({ projectId, enabled }) {
  const { status, error, jobs } = useProject(projectId, { enabled, pauseOnHidden: true });
  note("list");
  return (
    <ul id="jobs" data-status={status} data-error={error?.code}>
      {[...jobs.values()].map((job) => <Row key={job.job_id} job={job} />)}
    </ul>
  );
}

function Count({ projectId, enabled }) {
  const count = useProject(projectId, { enabled, pauseOnHidden: true, select: ({ jobs }) => jobs.size });
  note("count");
  return <p id="count">{count}</p>;
}

function Answer({ jobId }) {
  const { job } = useJob(jobId);
  const { text, stream } = useStream(jobId, "answer");
  const cancel = useCancel(), rerun = useRerun();
  const [answer, setAnswer] = useState(null);
  return (
    <section id="answer" data-job-status={job?.status} data-state={stream?.state}>
      <pre>{text}</pre>
      <button id="cancel" onClick={() => cancel(jobId).then(setAnswer)}>Stop</button>
      <button id="rerun" onClick={() => rerun(jobId).then(setAnswer)}>Again</button>
      <output>{answer?.cancel ?? answer?.job_id ?? answer?.error?.code}</output>
    </section>
  );
}

function Waiting({ projectId }) {
  const { jobs } = useProject(projectId, { suspense: true });
  return <p id="waited">{jobs.size}</p>;
}

function Page() {
  const [projectId, setProjectId] = useState(project);
  const [isShown, setShown] = useState(true);
  const [enabled, setEnabled] = useState(true);
  const [isWaiting, setWaiting] = useState(false);
  const [jobId, setJobId] = useState("");
  return (
    <main>
      <button id="switch" onClick={() => setProjectId(projectId === project ? other : project)}>Switch</button>
      <button id="toggle" onClick={() => setShown(!isShown)}>Show or hide</button>
      <button id="enable" onClick={() => setEnabled(!enabled)}>Enable or disable</button>
      <button id="wait" onClick={() => setWaiting(!isWaiting)}>Wait</button>
      <input id="job" value={jobId} onChange={(event) => setJobId(event.target.value)} />
      {isShown && <Jobs projectId={projectId} enabled={enabled} />}
      {isShown && <Count projectId={projectId} enabled={enabled} />}
      <Answer jobId={jobId} />
      <Suspense fallback={<p id="fallback">...</p>}>{isWaiting && <Waiting projectId={other} />}</Suspense>
    </main>
  );
}

createRoot(document.getElementById("root")).render(
  <StrictMode><RealtimeProvider socket={socket}><Page /></RealtimeProvider></StrictMode>,
);
