// Draws the stages of a job: a bar for each, as wide as its weight.

export function drawStages(list, stages = []) {
  list.hidden = stages.length === 0;
  while (list.children.length > stages.length) list.lastElementChild.remove();
  for (const [place, stage] of stages.entries()) drawStage(list.children[place] ?? addStage(list), stage);
}

function addStage(list) {
  list.append(document.getElementById("stage-template").content.cloneNode(true));
  return list.lastElementChild;
}

function drawStage(item, { name, weight, status, progress }) {
  const [title, bar] = item.children;
  const percent = Math.round(progress);
  item.dataset.status = status;
  item.style.flexGrow = weight;
  title.textContent = name;
  title.title = name;
  bar.setAttribute("aria-label", name);
  bar.setAttribute("aria-valuenow", percent);
  bar.setAttribute("aria-valuetext", `${percent} %, ${status}`);
  bar.firstElementChild.style.width = `${percent}%`;
}
