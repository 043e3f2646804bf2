// A page with assistant-ui's primitives. Its styled Thread takes the same runtime.

import { AssistantRuntimeProvider, AuiIf, ComposerPrimitive, ErrorPrimitive, MessagePrimitive, ThreadPrimitive } from "@assistant-ui/react";

import { useState } from "react";

import { useCeleryRuntime } from "./celery-assistant-runtime.js";

export function Chat({ socket, projectId, chatId }) {
  const [problem, setProblem] = useState(null);
  const runtime = useCeleryRuntime({ socket, projectId, chatId, onError: setProblem });
  return (
    <AssistantRuntimeProvider runtime={runtime}>
      <ThreadPrimitive.Root>
        <ThreadPrimitive.Messages>{({ message }) => <Message role={message.role} />}</ThreadPrimitive.Messages>
        {problem && <p role="alert">{problem.message}</p>}
        <ComposerPrimitive.Root>
          <ComposerPrimitive.Input aria-label="Question" />
          <AuiIf condition={({ thread }) => thread.isRunning}><ComposerPrimitive.Cancel>Stop</ComposerPrimitive.Cancel></AuiIf>
          <AuiIf condition={({ thread }) => !thread.isRunning}><ComposerPrimitive.Send>Ask</ComposerPrimitive.Send></AuiIf>
        </ComposerPrimitive.Root>
      </ThreadPrimitive.Root>
    </AssistantRuntimeProvider>
  );
}

function Message({ role }) {
  return (
    <MessagePrimitive.Root data-role={role}>
      <MessagePrimitive.Parts components={{ Text }} />
      <ErrorPrimitive.Message role="alert" />
    </MessagePrimitive.Root>
  );
}

const Text = ({ text }) => <p>{text}</p>;
