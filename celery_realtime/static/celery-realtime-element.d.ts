/** `<celery-job>`, `<celery-project>` and `<celery-realtime>`: jobs on a page, live. Importing the module defines them. */

import type { Job, RealtimeError, SocketLike, SubscriptionState } from "./celery-realtime.js";

/** A text, or one for each plural category of its `{n}`: `{one: "{n} job", other: "{n} jobs"}`. */
export type Text = string | { readonly other: string; readonly [category: string]: string };

/** What elements say, by language: English (`en`) and German (`de`). Add a language before elements are on the page. */
export const texts: { [language: string]: { [key: string]: Text } };

/** Attributes of all elements, which are properties too. */
export interface ConnectionAttributes {
  /** URL of the Socket.IO server; empty for that of the page. */
  src?: string | null;
  /** Its path there, if it is not `/socket.io`. */
  path?: string | null;
  /** URL that answers with `{"token": ...}`, for each connection and before a token expires. */
  tokenUrl?: string | null;
  /** URL of the module socket.io-client, if neither a script nor an import map of the page brings it. */
  client?: string | null;
}

export interface CeleryElement extends HTMLElement, ConnectionAttributes {
  /** A socket of socket.io-client; null for one that is still to come. */
  get socket(): SocketLike | null;
  set socket(socket: SocketLike | null | undefined);
  /** A token, or a function that returns one, or a promise of one. */
  get token(): string | (() => string | Promise<string>) | null;
  set token(token: string | (() => string | Promise<string>) | null | undefined);
}

/** A socket for all elements within it. */
export interface CeleryRealtimeElement extends CeleryElement {}

export interface ViewAttributes extends ConnectionAttributes {
  project?: string | null;
  theme?: "light" | "dark" | "auto" | null;
  /** Offer to stop jobs that have not ended. */
  cancellable?: boolean;
  /** Offer to run jobs again that have ended. */
  rerun?: boolean;
  /** Names of the streams to show, separated by spaces; all by default. */
  streams?: string | null;
}

export interface CeleryView extends CeleryElement, Required<Omit<ViewAttributes, keyof ConnectionAttributes>> {
  /** Texts in place of those of the language. */
  get texts(): { readonly [key: string]: Text } | null;
  set texts(texts: { readonly [key: string]: Text } | null | undefined);
  addEventListener<Name extends keyof CeleryEvents>(
    name: Name, listener: (this: this, event: CeleryEvents[Name]) => void, options?: boolean | AddEventListenerOptions,
  ): void;
  addEventListener(name: string, listener: EventListenerOrEventListenerObject, options?: boolean | AddEventListenerOptions): void;
}

/** One job. */
export interface CeleryJobElement extends CeleryView {
  jobId: string | null;
  /** Whether only its line is shown. */
  collapsed: boolean;
}

/** All jobs of a project. */
export interface CeleryProjectElement extends CeleryView {
  /** Statuses to show, separated by spaces: `queued`, `running`, `success`, `error`. All by default. */
  status: string | null;
  /** Names of the tasks whose jobs are asked for, separated by spaces; `*` stands for any characters. */
  task: string | null;
  /** The label of the jobs that are asked for; `*` stands for any characters. */
  label: string | null;
  /** Show jobs whose label, task, message, error or id has this text. */
  filter: string | null;
  /** Offer to take ended jobs out of sight, on this page only. */
  dismissible: boolean;
  /** Show more of a job, and unfold the workflow that it is in, now or as soon as it is there. */
  openJob(jobId: string): void;
  /** Take ended jobs out of sight, until they begin again or are asked for. */
  dismiss(jobIds: readonly string[]): void;
  /** How many jobs are shown at first, and how many more each time the user asks for more; by default all, of up to 5000. */
  get maxJobs(): string | null;
  set maxJobs(count: string | number | null);
}

/** Events of the elements. They bubble, and leave shadow trees. */
export interface CeleryEvents {
  /** A job has ended. */
  "celery-job-end": CustomEvent<{ readonly job: Job }>;
  /** What is shown is live, or no longer. */
  "celery-state": CustomEvent<{ readonly state: SubscriptionState | "paused" | "closed"; readonly error: RealtimeError | Error | null }>;
  /** The user wants to stop a job: prevent it to ask first. */
  "celery-cancel": CustomEvent<{ readonly job: Job }>;
  /** The user wants to run a job again: prevent it to ask first. */
  "celery-rerun": CustomEvent<{ readonly job: Job }>;
  /** Ended jobs are about to be taken out of sight: prevent it to keep them. */
  "celery-dismiss": CustomEvent<{ readonly jobs: readonly Job[] }>;
  /** What the server has answered to an order. */
  "celery-answer": CustomEvent<{
    readonly job: Job; readonly order: "cancel" | "rerun";
    readonly answer: { readonly ok: boolean; readonly cancel?: "requested" | "too_late"; readonly how?: string; readonly error?: RealtimeError };
  }>;
  /** An element without a socket asks for one: assign `detail.socket`, or null for one that is still to come. */
  "celery-socket": CustomEvent<{ socket: SocketLike | null | undefined }>;
}

type Attributes<Element> = { [Name in keyof Element as Name extends "jobId" | "tokenUrl" | "maxJobs" | "openJob" | "dismiss" ? never : Name]?: Element[Name] };
type Tag<Element> = Attributes<Omit<Element, keyof HTMLElement>> & {
  "job-id"?: string; "token-url"?: string; "max-jobs"?: string | number;
  id?: string; class?: string; className?: string; slot?: string; lang?: string; dir?: string; hidden?: boolean; part?: string;
  key?: string | number | bigint | null; ref?: unknown; children?: unknown; style?: unknown;
};

/** For JSX: `declare module "react" { namespace JSX { interface IntrinsicElements extends CeleryTags {} } }`. */
export interface CeleryTags {
  "celery-realtime": Tag<CeleryRealtimeElement>;
  "celery-job": Tag<CeleryJobElement>;
  "celery-project": Tag<CeleryProjectElement>;
}

declare global {
  interface HTMLElementTagNameMap {
    "celery-realtime": CeleryRealtimeElement;
    "celery-job": CeleryJobElement;
    "celery-project": CeleryProjectElement;
  }
  namespace JSX {
    interface IntrinsicElements extends CeleryTags {}
  }
}
