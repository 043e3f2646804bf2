import { Suspense } from "react";

import { Jobs } from "./jobs.jsx";

export const dynamic = "force-dynamic"; // rendered for each request

export default function Page() {
  return <Suspense fallback={<p>waiting</p>}><Jobs projectId="apollo" /></Suspense>;
}
