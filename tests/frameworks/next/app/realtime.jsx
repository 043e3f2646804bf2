"use client";
import { RealtimeProvider } from "celery-realtime/react";

const fetchToken = () => fetch("/celery-realtime/token?project=apollo").then((response) => response.json());

export function Realtime({ children }) {
  return <RealtimeProvider token={fetchToken}>{children}</RealtimeProvider>;
}
