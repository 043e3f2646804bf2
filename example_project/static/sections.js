// Follows each project that has a section on the page, and starts its jobs. Used by the examples of Django and Flask.

import { subscribeProject } from "celery-realtime";
import { draw } from "./rows.js";

const socket = io();  // the session's cookie says who this is
for (const section of document.querySelectorAll("section")) {
  const list = section.querySelector("ul");
  subscribeProject(socket, section.dataset.project, { onChange: (project) => draw(list, project) });
  section.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    fetch(event.target.action, { method: "POST", body: new FormData(event.target) });
  });
}
