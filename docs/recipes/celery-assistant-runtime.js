// A runtime of assistant-ui whose answers are Celery jobs: the store is the socket's. To leave the page does not end a job.

import { useExternalStoreRuntime } from "@assistant-ui/react";
import { useEffect, useMemo, useState, useSyncExternalStore } from "react";

import { ask, readAnswer, readChat } from "./celery-chats.js";
import { subscribeJob } from "./celery-realtime-streams.js";

const NOTHING = { job: null, streams: new Map() };
const nothing = () => NOTHING;
const never = () => () => {};

// `onError` is called with what goes wrong: an `Error` with a message for people.
export function useCeleryRuntime({ socket, projectId, chatId, onError }) {
  const [turns, setTurns] = useState([]);
  useEffect(() => {
    let isCurrent = true;
    load({ socket, projectId, chatId }).then((loaded) => isCurrent && setTurns(loaded), onError);
    return () => { isCurrent = false; };
  }, [socket, projectId, chatId, onError]);

  const last = turns.at(-1);
  const followed = useJob(socket, projectId, last?.answer === null ? last.job_id : null);
  const { job, streams } = followed.snapshot;
  const said = streams.get("answer")?.value ?? "";
  const isRunning = last?.answer === null && !["success", "error"].includes(job?.status);
  const status = statusOf(isRunning, job);
  const messages = useMemo(() => turns.flatMap(({ question, job_id, answer }) => [
    { id: `${job_id} asked`, role: "user", content: question },
    { id: job_id, role: "assistant", content: answer ?? said, ...(answer === null && { status }) },
  ]), [turns, said, job?.status]);

  async function send({ content }) {
    const question = content.filter(({ type }) => type === "text").map(({ text }) => text).join("");
    const job_id = await ask(chatId, question);
    const before = turns.map((turn) => ({ ...turn, answer: turn.answer ?? said }));
    setTurns([...before, { question, job_id, answer: null }]);
  }

  // Cancel the job. Its message ends when it has ended, with all that it has said.
  async function stop() {
    const answer = await followed.subscription?.cancel();
    if (answer && !answer.ok) throw new Error(answer.error.message);
  }

  return useExternalStoreRuntime({
    messages,
    isRunning,
    convertMessage: (message) => message,
    onNew: (message) => send(message).catch(onError),
    onCancel: () => stop().catch(onError),
  });
}

// What a job says; nothing without one.
function useJob(socket, projectId, jobId) {
  const [subscription, setSubscription] = useState(null);
  useEffect(() => {
    if (!jobId) return setSubscription(null);
    const opened = subscribeJob(socket, jobId, { projectId });
    setSubscription(opened);
    return () => opened.close();
  }, [socket, projectId, jobId]);
  const current = subscription?.jobId === jobId ? subscription : null;
  return {
    subscription: current,
    snapshot: useSyncExternalStore(current?.subscribe ?? never, current?.getSnapshot ?? nothing, nothing),
  };
}

async function load({ socket, projectId, chatId }) {
  const turns = await readChat(chatId);
  return Promise.all(turns.map(async (turn, place) => {
    const isLast = place === turns.length - 1;
    return turn.answer === null && !isLast ? { ...turn, answer: await readAnswer(socket, turn.job_id, projectId) } : turn;
  }));
}

function statusOf(isRunning, job) {
  if (isRunning) return { type: "running" };
  if (job?.state === "REVOKED") return { type: "incomplete", reason: "cancelled" };
  if (job?.status === "error") return { type: "incomplete", reason: "error", error: job.error ?? job.state };
  return { type: "complete", reason: "stop" };
}
