// The page: wires what stands in index.html to the conversation and the catalogue.

import {showCatalogue} from "./catalogue.js";
import {Chat} from "./chat.js";
import {Attachments, record} from "./media.js";
import {json, setKey} from "./server.js";
import {kinds, otherLanguage, word, write} from "./words.js";

const at = (id) => document.getElementById(id);
const say = (text) => { at("status").textContent = text; };
const attachments = new Attachments(at("attached"), say);
const chat = new Chat(at("messages"), busy, needKey);
let models = [];

function busy(on) {
  at("stop").hidden = !on;
  showTakes();
}

function needKey() {
  at("key-form").hidden = false;
  at("key").focus();
}

async function loadModels() {
  try {
    models = (await json("v1/models")).data;
    at("key-form").hidden = true;
    say("");
  } catch (problem) {
    if (problem.status === 401) {
      needKey();
      say(word("nokey"));
    } else say(problem.status ? problem.message : word("unreachable"));
    return;
  }
  const able = models.filter((model) => model.can.includes("chat") || model.can.includes("draw"));
  chat.voice = models.find((model) => model.can.includes("speak"))?.id ?? null;
  at("model").replaceChildren(...able.map((model) => new Option(model.id, model.id)));
  const kept = localStorage.getItem("model");
  if (able.some((model) => model.id === kept)) at("model").value = kept;
  showTakes();
}

const chosen = () => models.find((model) => model.id === at("model").value);

function showTakes() {
  const model = chosen();
  at("takes").textContent = model ? word("takes", kinds(model.inputs)) : "";
  for (const [name, verb] of [["send", "chat"], ["draw", "draw"]])
    at(name).hidden = Boolean(chat.abort) || !(model ? model.can.includes(verb) : verb === "chat");
}

async function send() {
  const text = at("question").value.trim();
  const model = chosen();
  if (!model || chat.abort || (!text && !attachments.files.length)) return;
  for (const file of attachments.files) {
    const kind = file.type.split("/")[0];
    if (!model.inputs.includes(kind)) {
      say(word("cannot", model.id, kinds([kind])));
      return;
    }
  }
  say("");
  at("question").value = "";
  await chat.ask(model.id, text, attachments.take());
}

async function draw() {
  const text = at("question").value.trim();
  const model = chosen();
  if (!model || chat.abort || !text) return;
  say(attachments.files.length ? word("wordsalone") : "");
  if (attachments.files.length) return;
  at("question").value = "";
  await chat.draw(model.id, text);
}

function show(view) {
  for (const name of ["chat", "catalogue"]) at(name).hidden = name !== view;
  for (const button of document.querySelectorAll("[data-view]")) button.setAttribute("aria-pressed", button.dataset.view === view);
  if (view === "catalogue") showCatalogue().catch((problem) => { at("count").textContent = problem.message; });
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
}

let stopRecording = null;
async function toggleRecording() {
  const button = at("record");
  try {
    if (stopRecording) {
      attachments.add([await stopRecording()]);
      stopRecording = null;
    } else stopRecording = await record();
  } catch {
    stopRecording = null;
    say(word("nomic"));
  }
  button.setAttribute("aria-pressed", Boolean(stopRecording));
  button.dataset.word = stopRecording ? "recording" : "record";
  button.textContent = word(button.dataset.word);
}

at("ask").onsubmit = (event) => { event.preventDefault(); (chosen()?.can.includes("chat") ? send : draw)(); };
at("question").onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); at("ask").requestSubmit(); }
};
at("question").onpaste = (event) => { if (event.clipboardData.files.length) { event.preventDefault(); attachments.add(event.clipboardData.files); } };
at("draw").onclick = draw;
at("file").onclick = () => at("files").click();
at("files").onchange = () => { attachments.add(at("files").files); at("files").value = ""; };
at("record").onclick = toggleRecording;
at("stop").onclick = () => chat.stop();
at("new").onclick = () => { chat.clear(); at("question").focus(); };
at("model").onchange = () => { localStorage.setItem("model", at("model").value); showTakes(); };
at("key-form").onsubmit = (event) => { event.preventDefault(); setKey(at("key").value.trim()); loadModels(); };
at("language").onclick = () => { otherLanguage(); write(); showTakes(); attachments.show(); };
at("theme").onclick = () => {
  const dark = getComputedStyle(document.documentElement).colorScheme.includes("dark")
    && (document.documentElement.dataset.theme === "dark" || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches));
  setTheme(dark ? "light" : "dark");
};
for (const button of document.querySelectorAll("[data-view]")) button.onclick = () => show(button.dataset.view);

let inside = 0; // dragenter and dragleave come for every element on the way
addEventListener("dragenter", (event) => { if (event.dataTransfer?.types.includes("Files")) { inside += 1; at("drop").hidden = false; } });
addEventListener("dragleave", () => { inside = Math.max(0, inside - 1); at("drop").hidden = inside === 0; });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  inside = 0;
  at("drop").hidden = true;
  attachments.add(event.dataTransfer.files);
});

if (localStorage.getItem("theme")) setTheme(localStorage.getItem("theme"));
write();
busy(false);
loadModels();
