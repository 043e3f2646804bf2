import { Jobs } from "./jobs.jsx";

export const dynamic = "force-dynamic"; // rendered for each request

export default function Page() {
  return <Jobs projectId="apollo" />;
}
