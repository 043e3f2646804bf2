import { Realtime } from "./realtime.jsx";

export default function Layout({ children }) {
  return <html lang="en"><body><Realtime>{children}</Realtime></body></html>;
}
