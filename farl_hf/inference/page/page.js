import { drawFaces, showFaces, showLegend } from "./faces.js";

const TITLES = {
  everything: "Everything", parsing: "Parts of the face", alignment: "Landmarks and pose", attributes: "Attributes",
  zeroshot: "Your own words",
};
const at = (id) => document.getElementById(id);
const choices = await (await fetch("api/tasks")).json();
let photo = null, request = null, shown = null;

for (const task of Object.keys(choices.tasks)) {
  const row = document.createElement("label");
  const button = Object.assign(document.createElement("input"), { type: "radio", name: "task", value: task });
  button.checked = task === "everything";
  row.append(button, TITLES[task]);
  at("tasks").append(row);
}
at("limits").textContent = `or click to choose one, up to ${choices.max_megabytes} MB`;
at("address").textContent = location.href.split(/[?#]/)[0];
const task = () => document.querySelector("input[name=task]:checked").value;

function taskChanged() {
  const models = choices.tasks[task()];
  at("model").replaceChildren(...models.map((name) => new Option(name, name)));
  at("model-row").hidden = models.length === 0;
  at("words-row").hidden = task() !== "zeroshot";
}

function say(text, kind = "") {
  at("message").textContent = text;
  at("message").className = kind;
}

function clear() {
  if (shown) URL.revokeObjectURL(shown);
  shown = null;
  for (const id of ["stage", "legend", "faces"]) at(id).replaceChildren();
  at("stage").hidden = at("tools").hidden = true;
}

async function look() {
  if (!photo) return;
  request?.abort();
  const mine = (request = new AbortController());
  clear();
  if (photo.size > 1e6 * choices.max_megabytes) return say(`This file is larger than ${choices.max_megabytes} MB.`, "wrong");
  say("Looking", "busy");
  const query = new URLSearchParams({ task: task(), model: at("model").value });
  if (task() === "zeroshot") for (const words of at("words").value.split("\n")) query.append("label", words);
  try {
    const response = await fetch(`api/analyze?${query}`, { method: "POST", body: photo, signal: mine.signal });
    const answer = await response.json();
    if (response.ok) show(answer);
    else say(answer.error, "wrong");
  } catch (error) {
    if (!mine.signal.aborted) say("The server gave no answer. Is it still running?", "wrong");
  }
}

function show(answer) {
  const count = answer.faces.length;
  say(count === 0 ? "No face was found." : count === 1 ? "One face" : `${count} faces`);
  drawFaces(at("stage"), (shown = URL.createObjectURL(photo)), answer);
  showLegend(at("legend"), answer);
  showFaces(at("faces"), answer, task());
  const { label_map: labels, ...rest } = answer;
  at("opacity-row").hidden = at("save-labels").hidden = !labels;
  if (labels) at("save-labels").href = labels;
  at("save-json").href = "data:application/json," + encodeURIComponent(JSON.stringify(rest, null, 1));
  at("stage").hidden = at("tools").hidden = false;
}

function take(file) {
  if (!file) return;
  photo = file;
  at("again").hidden = false;
  look();
}

at("tasks").addEventListener("change", () => (taskChanged(), task() === "zeroshot" || look()));
at("model").addEventListener("change", look);
at("file").addEventListener("change", () => {
  take(at("file").files[0]);
  at("file").value = ""; // so that the same file can be chosen again
});
at("form").addEventListener("submit", (event) => (event.preventDefault(), look()));
at("opacity").addEventListener("input", () => at("stage").style.setProperty("--opacity", at("opacity").value));
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
taskChanged();
