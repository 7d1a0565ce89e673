// The list of configurations: a new one from a preset, or from another trainer's file.
"use strict";
import { post, toast } from "./page.js";

function dialog(button, place, done) {
  document.getElementById(button).addEventListener("click", () => place.showModal());
  place.querySelector("[value=no]").addEventListener("click", () => place.close());
  place.querySelector("form").addEventListener("submit", (event) => { event.preventDefault(); done(event.target.elements); });
}

dialog("new", document.getElementById("new-dialog"), ({ preset, name }) => {
  location.assign(`/configs/${encodeURIComponent(preset.value)}?as=${encodeURIComponent(name.value)}`);
});

dialog("import", document.getElementById("import-dialog"), async ({ file, text, name }) => {
  try {
    const chosen = file.files[0];
    const found = await post("/import", { name: chosen?.name ?? "", text: chosen ? await chosen.text() : text.value });
    await post(`/configs/${encodeURIComponent(name.value)}/save`, { text: found.text, digest: "" });
    sessionStorage.setItem("report", found.report.join("\n"));
    location.assign(`/configs/${encodeURIComponent(name.value)}`);
  } catch (error) {
    toast(error.message, true);
  }
});
