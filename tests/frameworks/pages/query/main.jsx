import { QueryClient, QueryClientProvider, useQuery } from "@tanstack/react-query";
import { memo, StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { jobQuery, projectQuery } from "celery-realtime/query";

import { note, other, project, socket } from "../shared.js";

const Row = memo(function Row({ job }) {
  note(job.job_id);
  return <li data-job={job.job_id} data-status={job.status}>{job.progress}</li>;
});

function Jobs({ projectId, enabled }) {
  const { data, error } = useQuery(projectQuery(socket, projectId, { enabled }));
  note("list");
  return (
    <ul id="jobs" data-status={enabled ? data?.status : "idle"} data-error={error?.code}>
      {[...(data?.jobs.values() ?? [])].map((job) => <Row key={job.job_id} job={job} />)}
    </ul>
  );
}

function Count({ projectId, enabled }) {
  const { data } = useQuery({ ...projectQuery(socket, projectId, { enabled }), select: ({ jobs }) => jobs.size });
  note("count");
  return <p id="count">{data ?? 0}</p>;
}

function Answer({ jobId }) {
  const { data } = useQuery(jobQuery(socket, jobId));
  const answer = data?.streams.get("answer");
  return (
    <section id="answer" data-job-status={data?.job?.status} data-state={answer?.state}>
      <pre>{answer?.value}</pre>
    </section>
  );
}

function Page() {
  const [projectId, setProjectId] = useState(project);
  const [isShown, setShown] = useState(true);
  const [enabled, setEnabled] = useState(true);
  const [jobId, setJobId] = useState("");
  return (
    <main>
      <button id="switch" onClick={() => setProjectId(projectId === project ? other : project)}>Switch</button>
      <button id="toggle" onClick={() => setShown(!isShown)}>Show or hide</button>
      <button id="enable" onClick={() => setEnabled(!enabled)}>Enable or disable</button>
      <input id="job" value={jobId} onChange={(event) => setJobId(event.target.value)} />
      {isShown && <Jobs projectId={projectId} enabled={enabled} />}
      {isShown && <Count projectId={projectId} enabled={enabled} />}
      <Answer jobId={jobId} />
    </main>
  );
}

createRoot(document.getElementById("root")).render(
  <StrictMode><QueryClientProvider client={new QueryClient()}><Page /></QueryClientProvider></StrictMode>,
);
