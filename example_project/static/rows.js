// Draws the jobs of a project as a list: a bar, and what there is to say of each. Used by the three framework examples.

export function draw(list, { jobs, state }) {
  list.ariaBusy = state !== "subscribed";
  list.replaceChildren(...[...jobs.values()].map((job) => {
    const row = document.createElement("li"), bar = document.createElement("progress");
    row.dataset.status = job.status;
    bar.max = 100;
    bar.value = job.status === "success" ? 100 : job.progress ?? 0;
    row.append(bar, ` ${job.status} ${job.message ?? ""} ${job.result?.summary ?? job.error ?? ""}`);
    return row;
  }));
}
