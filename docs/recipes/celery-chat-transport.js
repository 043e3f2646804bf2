// A transport for the AI SDK's useChat whose answers are Celery jobs. To leave the page does not end a job; `stop` does.

import { ask, readAnswer, readChat } from "./celery-chats.js";
import { subscribeJob } from "./celery-realtime-streams.js";

export class CeleryChatTransport {
  resumeStreamIsReplay = true; // all of the answer comes again, and what follows
  #running = new Map(); // chat id -> what reads its answer

  constructor({ socket, projectId }) {
    Object.assign(this, { socket, projectId });
  }

  // The messages to begin with. The last answer, if it is not complete, is left to `resume`.
  async load(chatId) {
    const turns = await readChat(chatId);
    const messages = await Promise.all(turns.map(async ({ question, job_id, answer }, place) => {
      const asked = messageOf("user", `${job_id} asked`, question);
      if (answer === null && place === turns.length - 1) return [asked];
      return [asked, messageOf("assistant", job_id, answer ?? (await readAnswer(this.socket, job_id, this.projectId)))];
    }));
    return messages.flat();
  }

  async sendMessages({ chatId, messages, trigger }) {
    return this.#read(chatId, await ask(chatId, textOf(messages.at(-1)), trigger === "regenerate-message"));
  }

  async reconnectToStream({ chatId }) {
    const last = (await readChat(chatId)).at(-1);
    return last?.answer === null ? this.#read(chatId, last.job_id) : null;
  }

  // Cancel the job that answers. Its message ends when it has ended, with all that it has said.
  async stop(chatId) {
    await this.#running.get(chatId)?.stop();
  }

  #read(chatId, jobId) {
    let reader;
    return new ReadableStream({
      start: (controller) => {
        reader = new AnswerReader(this, jobId, controller);
        this.#running.set(chatId, reader);
      },
      cancel: () => reader.leave(),
    });
  }
}

// Turns what a job says into chunks of the AI SDK.
class AnswerReader {
  constructor({ socket, projectId }, jobId, controller) {
    Object.assign(this, { jobId, controller, part: null });
    this.put("start", { messageId: jobId });
    this.put("start-step");
    this.job = subscribeJob(socket, jobId, {
      projectId,
      onChunk: (stream, text) => this.take(stream, text),
      onChange: () => queueMicrotask(() => this.check()), // the server's answer has the job, and then its streams
    });
  }

  put(type, more) {
    this.controller.enqueue({ type, ...more });
  }

  take({ name, generation, value }, text) {
    if (name !== "answer") return;
    const id = `${this.jobId} ${generation}`;
    if (id !== this.part) { // another attempt begins anew
      this.endPart();
      if (this.part) this.put("reset-step");
      this.part = id;
      this.put("text-start", { id });
      text = value;
    }
    if (text) this.put("text-delta", { id, delta: text });
  }

  endPart() {
    if (this.part) this.put("text-end", { id: this.part });
  }

  check() {
    const { job, state, error, streams } = this.job;
    if (state === "refused") return this.end("error", { errorText: error.message });
    if (!["success", "error"].includes(job?.status) || streams.get("answer")?.state === "open") return;
    if (job.status === "success") this.end("finish");
    else if (job.state === "REVOKED") this.end("abort");
    else this.end("error", { errorText: job.error ?? job.state });
  }

  end(type, more) {
    if (this.ended) return;
    this.endPart();
    if (type !== "error") this.put("finish-step");
    this.put(type, more);
    this.controller.close();
    this.leave();
  }

  leave() {
    this.ended = true;
    this.job.close();
  }

  async stop() {
    const answer = await this.job.cancel();
    if (!answer.ok) throw new Error(answer.error.message);
  }
}

const messageOf = (role, id, text) => ({ id, role, parts: [{ type: "text", text }] });

const textOf = ({ parts }) => parts.filter(({ type }) => type === "text").map(({ text }) => text).join("");
