// Chats whose answers are Celery jobs: what both recipes ask of the web server, and the socket that they share.

import { io } from "socket.io-client";

import { createSocket } from "./celery-realtime-socket.js";

// Resolves to a socket, and to the project of the user's jobs. Each connection has a new token, also when one has expired.
export async function connect() {
  const fetchToken = () => fetch("/token").then((answer) => answer.json());
  const { project_id: projectId } = await fetchToken();
  return { socket: createSocket({ io, token: fetchToken }), projectId };
}

async function call(path, body) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(path, body && { method: "POST", headers, body: JSON.stringify(body) });
  if (!answer.ok) throw new Error(`The server answered ${answer.status}.`);
  return answer.json();
}

// The turns of a chat: [{ question, job_id, answer }]; `answer` is null if the job runs, has failed or was stopped.
export const readChat = async (chatId) => (await call(`/chats/${encodeURIComponent(chatId)}`)).turns;

// Resolves to the id of the job that answers.
export async function ask(chatId, question, again = false) {
  return (await call(`/chats/${encodeURIComponent(chatId)}`, { question, again })).job_id;
}

// Resolves to what a job has said so far.
export async function readAnswer(socket, jobId, projectId) {
  const answer = await socket.emitWithAck("read_stream", { job_id: jobId, project_id: projectId, stream: "answer", from: 0 });
  return answer.ok ? answer.value : "";
}
