"use client";
import { useEffect, useState } from "react";
import { useProject } from "celery-realtime/react";

export function Jobs({ projectId }) {
  const { jobs, status } = useProject(projectId);
  const [isHydrated, setHydrated] = useState(false);
  useEffect(() => setHydrated(true), []);
  return <p id="jobs" data-hydrated={isHydrated}>{status}: {jobs.size} jobs</p>;
}
