// The form of a configuration. The TOML is what counts: an edit goes to the server, which answers with the new text.
"use strict";
import { act, post, toast } from "./page.js";

const editor = document.getElementById("editor");
const form = document.getElementById("form");
const text = document.getElementById("text");
const script = document.getElementById("script");
const search = document.getElementById("search");
const only = document.getElementById("only");
let { name, digest } = editor.dataset;
let shape = "";
let saved = digest ? text.value : null;
let values = {};
let named;  // the output_name that is saved
let queue = [];
let busy = false;
let sent = Promise.resolve();  // when every edit so far is in the text

function problems(found) {
  for (const each of form.querySelectorAll(".finding")) each.textContent = "";
  const box = document.getElementById("findings");
  box.replaceChildren();
  for (const { id, severity, line, message, hint } of found) {
    const said = [message, hint].filter(Boolean).join(" — ");
    const place = id && document.getElementById(`e-${id}`);
    const field = place?.closest(".field");
    if (place) {
      place.textContent += (place.textContent ? "\n" : "") + said;
      place.className = `finding ${severity}`;
    }
    field?.querySelector("input, select").setAttribute("aria-describedby", place.id);
    const item = document.createElement(field ? "button" : "p");
    item.className = `finding ${severity}`;
    item.textContent = (line ? `line ${line}: ` : "") + said;
    if (field) {
      item.type = "button";
      item.addEventListener("click", () => { reveal(field); field.querySelector("input, select").focus(); });
    }
    box.append(item);
  }
  box.hidden = !found.length;
}

function reveal(field) {
  search.value = "";
  only.checked = false;
  filter();
  for (let each = field.closest("details"); each; each = each.parentElement.closest("details")) each.open = true;
}

function fill() {
  for (const field of form.querySelectorAll(".field")) {
    const input = field.querySelector("input, select");
    const value = values[input.name];
    field.classList.toggle("set", value !== undefined);
    if (input === document.activeElement && input.dataset.typing) continue;
    if (input.tagName === "SELECT" && value !== undefined && ![...input.options].some((each) => each.value === value)) {
      input.append(new Option(value, value));
    }
    input.value = value ?? "";
    input.dataset.shown = input.value;
  }
}

function filter() {
  const wanted = search.value.trim().toLowerCase();
  for (const group of form.querySelectorAll(".group")) {
    let count = 0;
    for (const field of group.querySelectorAll(".field")) {
      const found = !wanted || field.textContent.toLowerCase().includes(wanted);
      field.hidden = !found || (only.checked && !field.classList.contains("set"));
      count += !field.hidden;
    }
    const set = group.querySelectorAll(".set").length;
    group.querySelector(".count").textContent = set ? `${set} set` : "";
    group.hidden = !count && (Boolean(wanted) || only.checked);
    if ((wanted || only.checked) && count) group.querySelectorAll(".more").forEach((each) => { each.open = true; });
    if (wanted && count) group.open = true;
  }
}

async function send() {
  busy = true;
  const edits = queue;
  queue = [];
  const asked = text.value;
  try {
    const found = await post("/draft", { name, text: asked, edits, shape });
    // typed in the meantime: that text counts, and is sent next
    if (text.value === asked) text.value = found.text;
    if (found.html !== null) form.innerHTML = found.html;
    shape = found.shape;
    script.value = found.script;
    ({ values } = found);
    if (found.text === saved) named = values.output_name;
    fill();
    if (found.html !== null) form.querySelectorAll(".more").forEach((each) => { each.open = Boolean(each.querySelector(".set")); });
    problems(found.problems);
    filter();
  } catch (error) {
    problems([{ severity: "error", message: error.message }]);
  }
  form.dataset.ready = "";
  busy = false;
  document.getElementById("changed").hidden = text.value === saved;
  if (queue.length || text.value !== asked && !edits.length) await send();
}

function update() {
  if (!busy) sent = send();
}

function edit(change) {
  queue.push(change);
  update();
}

let waiting = null;
function changed({ target }) {
  clearTimeout(waiting);
  delete target.dataset.typing;
  if (target.name && target.value !== target.dataset.shown) {
    target.dataset.shown = target.value;
    edit({ id: target.name, text: target.value === "" ? null : target.value });
  }
}

form.addEventListener("change", changed);
form.addEventListener("input", (event) => {
  event.target.dataset.typing = "yes";
  clearTimeout(waiting);
  waiting = setTimeout(() => { changed(event); event.target.dataset.typing = "yes"; }, 500);
});
form.addEventListener("focusout", ({ target }) => { delete target.dataset.typing; });
form.addEventListener("click", ({ target }) => {
  if (target.dataset.do) edit({ do: target.dataset.do, id: target.dataset.id });
});
form.addEventListener("submit", (event) => event.preventDefault());
document.getElementById("add-dataset").addEventListener("click", () => edit({ do: "add", id: "datasets" }));
script.addEventListener("change", () => edit({ id: "script", text: script.value }));
search.addEventListener("input", filter);
only.addEventListener("change", filter);
text.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, 400); });

async function save(target = name, known = digest, given = null) {
  await sent;
  const content = given ?? text.value;
  try {
    const found = await post(`/configs/${encodeURIComponent(target)}/save`, { text: content, digest: known });
    if (target !== name) { location.assign(`/configs/${encodeURIComponent(target)}`); return false; }
    digest = found.digest;
    saved = content;
    named = values.output_name;
    document.getElementById("changed").hidden = true;
    history.replaceState(null, "", `/configs/${encodeURIComponent(name)}`);
    toast(`${name}.toml saved`);
    return true;
  } catch (error) {
    toast(error.message, true);
    return false;
  }
}

document.getElementById("save").addEventListener("click", () => save());
document.getElementById("save-as").addEventListener("click", async () => {
  const target = prompt("Name of the new configuration", `${name}-2`);
  if (!target) return;
  await sent;
  // two configurations must not train the same LoRA, unless it has a name of its own already
  const edits = values.output_name === named ? [{ id: "output_name", text: target }] : [];
  const found = await act("/draft", { name, text: text.value, edits, shape });
  await save(target, "", found?.text);
});
for (const [id, address] of [["train", "/train"], ["enqueue", "/enqueue"]]) {
  document.getElementById(id).addEventListener("click", async () => {
    await sent;
    if ((digest && text.value === saved) || await save()) await act(address, { name });
  });
}
addEventListener("beforeunload", (event) => { if (digest && text.value !== saved) event.preventDefault(); });

const report = sessionStorage.getItem("report");
sessionStorage.removeItem("report");
if (report) toast(report);
update();
