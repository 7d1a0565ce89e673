// Common to all pages: changes as POSTs with their answers, and the parts that the server sends.
"use strict";

export async function post(address, document = {}) {
  const response = await fetch(address, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(document),
  });
  const found = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) throw new Error([found.error, found.hint].filter(Boolean).join("\n"));
  return found;
}

export function toast(text, bad = false) {
  const box = document.createElement("div");
  box.className = bad ? "toast bad" : "toast";
  box.textContent = text;
  document.getElementById("toasts").append(box);
  setTimeout(() => box.remove(), bad ? 20000 : 6000);
  return box;
}

export function ask(title, text) {
  const dialog = document.getElementById("ask");
  document.getElementById("ask-title").textContent = title;
  document.getElementById("ask-text").textContent = text;
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclick = (event) => event.target.value && dialog.close(event.target.value);
    dialog.onclose = () => { resolve(dialog.returnValue === "yes"); dialog.returnValue = ""; };
  });
}

// Follow a command that the server has started until it works on a run, or has ended.
export async function follow(number) {
  const box = toast("starting…");
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, 400));
    const found = await (await fetch(`/started/${number}.json`)).json();
    if (found.error) throw new Error(found.error);
    if (found.text) box.textContent = found.text.trimEnd();
    if (!box.isConnected) document.getElementById("toasts").append(box);
    if (found.run && found.code === null) {
      const address = `/runs/${found.run}`;
      if (location.pathname !== address) location.assign(address);
      return box.remove();
    }
    if (found.code !== null) {
      box.remove();
      toast(found.text.trimEnd() || `ended with code ${found.code}`, found.code !== 0);
      return found;
    }
  }
}

export async function act(address, values) {
  try {
    const found = await post(address, values);
    if (found.started) return await follow(found.started);
    if (found.said) toast(found.said);
    return found;
  } catch (error) {
    toast(error.message, true);
    return null;
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-post]");
  if (!button) return;
  const { post: address, ask: title, text, then } = button.dataset;
  if (title && !(await ask(title, text || ""))) return;
  button.disabled = true;
  if (await act(address, JSON.parse(button.dataset.values || "{}")) && then) location.assign(then);
  button.disabled = false;
});

// -- parts

function show({ name, html, version }) {
  const part = document.querySelector(`[data-part="${name}"]`);
  if (!part) return document.dispatchEvent(new CustomEvent("lora:part", { detail: { name, html } }));
  if (part.dataset.version === version) return;
  part.dataset.version = version;
  const active = part.contains(document.activeElement) ? document.activeElement : null;
  const open = [...part.querySelectorAll("details")].map((each) => each.open);
  const checked = [...part.querySelectorAll("input:checked")].map((each) => each.value);
  const places = [...part.querySelectorAll(".scroll, .list, .text")].map((each) => [each.scrollLeft, each.scrollTop,
    each.scrollTop + each.clientHeight >= each.scrollHeight - 4]);
  const address = active && (active.getAttribute("href") || active.dataset.post);
  part.innerHTML = html;
  part.querySelectorAll("details").forEach((each, n) => { each.open = open[n] ?? each.open; });
  part.querySelectorAll("input").forEach((each) => { each.checked = checked.includes(each.value); });
  part.querySelectorAll(".scroll, .list, .text").forEach((each, n) => {
    const [left, top, bottom] = places[n] ?? [0, 0, true];
    each.scrollLeft = left;
    each.scrollTop = "bottom" in each.dataset && bottom ? each.scrollHeight : top;
  });
  if (address) part.querySelector(`[href="${address}"], [data-post="${address}"]`)?.focus();
  part.dispatchEvent(new CustomEvent("lora:shown", { bubbles: true }));
}

// -- the stream. A hidden page has none: a browser opens six connections to a server and no more.

let source = null;
let after = null;
// a run's page begins its stream itself, where its curves end
let began = !("run" in document.body.dataset);

function connect() {
  const address = document.body.dataset.stream;
  if (!address || source) return;
  source = new EventSource(after === null ? address : `${address}?after=${after}`);
  source.onopen = () => { document.getElementById("connection").hidden = true; };
  source.onerror = () => {
    document.getElementById("connection").hidden = false;
    // a browser gives up where the server refuses, such as one with another token
    if (source?.readyState === EventSource.CLOSED) { disconnect(); setTimeout(connect, 2000); }
  };
  source.addEventListener("part", (event) => show(JSON.parse(event.data)));
  source.addEventListener("reset", () => location.reload());
  source.addEventListener("event", (event) => {
    const id = Number(event.lastEventId);
    if (after !== null && id <= after) return;
    after = id;
    document.dispatchEvent(new CustomEvent("lora:event", { detail: JSON.parse(event.data) }));
  });
}

function disconnect() {
  source?.close();
  source = null;
}

export function begin(offset) {
  [after, began] = [offset, true];
  connect();
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) disconnect();
  else if (began) connect();
});
document.querySelectorAll("[data-bottom]").forEach((each) => { each.scrollTop = each.scrollHeight; });
if (began) connect();
