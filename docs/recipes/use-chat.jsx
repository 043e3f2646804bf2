// A page with the AI SDK's useChat.

import { useChat } from "@ai-sdk/react";
import { useEffect, useMemo, useState } from "react";

import { CeleryChatTransport } from "./celery-chat-transport.js";

export function Chat({ socket, projectId, chatId }) {
  const transport = useMemo(() => new CeleryChatTransport({ socket, projectId }), [socket, projectId]);
  const [loaded, setLoaded] = useState(null);
  const [problem, setProblem] = useState(null);
  useEffect(() => {
    let isCurrent = true;
    transport.load(chatId).then((messages) => isCurrent && setLoaded({ chatId, messages }), setProblem);
    return () => { isCurrent = false; };
  }, [transport, chatId]);
  if (problem) return <p role="alert">{problem.message}</p>;
  if (loaded?.chatId !== chatId) return <p role="status">Loading</p>;
  return <Conversation key={chatId} id={chatId} messages={loaded.messages} transport={transport} />;
}

function Conversation({ id, messages: loaded, transport }) {
  const { messages, sendMessage, status, error } = useChat({ id, messages: loaded, transport, resume: true });
  const [problem, setProblem] = useState(null);
  const isRunning = status === "submitted" || status === "streaming";

  function ask(event) {
    event.preventDefault();
    const form = event.currentTarget;
    setProblem(null);
    sendMessage({ text: new FormData(form).get("question") });
    form.reset();
  }

  return (
    <main>
      {messages.map((message) => <p key={message.id} data-role={message.role}>{textOf(message)}</p>)}
      {(error ?? problem) && <p role="alert">{(error ?? problem).message}</p>}
      <form onSubmit={ask}>
        <input name="question" aria-label="Question" required />
        {isRunning
          ? <button type="button" onClick={() => transport.stop(id).catch(setProblem)}>Stop</button>
          : <button>Ask</button>}
      </form>
    </main>
  );
}

const textOf = ({ parts }) => parts.filter(({ type }) => type === "text").map(({ text }) => text).join("");
