import { createApp } from "vue";
import { realtime } from "celery-realtime/vue";

import { socket } from "../shared.js";
import Page from "./Page.vue";

createApp(Page).use(realtime, { socket }).mount("#root");
