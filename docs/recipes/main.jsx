// The page's entry.

import { StrictMode } from "react";
import { createRoot } from "react-dom/client";

import { connect } from "./celery-chats.js";
import { Chat } from "./use-chat.jsx"; // or ./assistant-ui.jsx

const { socket, projectId } = await connect();
const chatId = new URLSearchParams(location.search).get("chat") ?? "first";
createRoot(document.getElementById("root")).render(
  <StrictMode>
    <Chat socket={socket} projectId={projectId} chatId={chatId} />
  </StrictMode>,
);
