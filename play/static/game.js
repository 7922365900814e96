// The page: keys and buttons in, frames out.

import { buttonsOf, chooseAction, Held, helpOf, labelOf, listen, placeOf } from "./keys.js";

const element = (id) => document.getElementById(id);
const canvas = element("screen");
const MAX_THREADS = 4;
// For measurements and tests: ?fast, ?threads=1, ?backend=webgpu.
const query = new URLSearchParams(location.search);

let worker;
let calls = 0;
const waiting = new Map();
let manifest;
let paused = false;
let notice = ""; // what is said while the game runs
let generation = 0; // of the running game; an older loop ends
const held = new Held();
const times = []; // when the last frames were shown
const costs = []; // milliseconds of the last steps

function ask(message) {
  const call = ++calls;
  worker.postMessage({ ...message, call });
  return new Promise((resolve, reject) => waiting.set(call, { resolve, reject }));
}

function answered({ data }) {
  const { resolve, reject } = waiting.get(data.call);
  waiting.delete(data.call);
  if (data.error) reject(new Error(data.error));
  else resolve(data);
}

function say(text) {
  element("status").textContent = text;
}

// ---- the game -------------------------------------------------------------------------------------------------------

async function loadModel(backend) {
  generation += 1;
  worker?.terminate();
  waiting.clear();
  worker = new Worker("./worker.js", { type: "module" });
  worker.onmessage = answered;
  worker.onerror = (event) => say(`This browser cannot run the model: ${event.message}`);
  const numThreads = self.crossOriginIsolated ? wantedThreads() : 1;
  say("Loading the model…");
  manifest = (await ask({ do: "load", backend, numThreads })).manifest;
  element("runtime").textContent = backend === "webgpu" ? "WebGPU" : `WebAssembly, threads: ${numThreads}`;
}

// One core is left to the page and to everything else: where all are busy, threads that wait for each other cost half.
function wantedThreads() {
  return Number(query.get("threads")) || Math.min(MAX_THREADS, Math.max(1, (navigator.hardwareConcurrency ?? 1) - 1));
}

async function restart() {
  if (!manifest) return; // it will begin by itself
  const mine = ++generation;
  const index = Number(element("start").value);
  setPaused(false);
  times.length = costs.length = 0;
  say(notice);
  try {
    await Promise.all([showPicture(manifest.starts[index].picture, mine), ask({ do: "begin", start: index })]);
    canvas.dataset.frames = 0;
    await play(mine);
  } catch (error) {
    // Of an older game nobody waits for anything.
    if (mine === generation) throw error;
  }
}

async function play(mine) {
  let due = performance.now();
  while (mine === generation) {
    due = Math.max(due + 1000 / speed(), performance.now());
    await until(due);
    if (mine !== generation) break;
    // Nobody plays what is not seen.
    const waits = paused || document.hidden;
    const action = waits ? null : (chooseAction(held.names, manifest.actions) ?? manifest.idle);
    if (action === null) continue;
    const { pixels, milliseconds } = await ask({ do: "step", action });
    if (mine === generation) show(pixels, milliseconds, action);
  }
}

function speed() {
  return element("fast").checked ? 1000 : manifest.fps;
}

function until(time) {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, time - performance.now())));
}

async function showPicture(url, mine) {
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    return; // the game starts without it
  }
  if (mine === generation) canvas.getContext("2d").drawImage(image, 0, 0);
}

function show(pixels, milliseconds, action) {
  canvas.getContext("2d").putImageData(new ImageData(pixels, canvas.width, canvas.height), 0, 0);
  canvas.dataset.frames = Number(canvas.dataset.frames) + 1;
  const now = performance.now();
  times.push(now);
  costs.push(milliseconds);
  while (times.length > 1 && now - times[0] > 2000) times.shift();
  if (costs.length > 60) costs.shift();
  const rate = times.length > 1 ? ((times.length - 1) * 1000) / (now - times[0]) : 0;
  const median = [...costs].sort((a, b) => a - b)[costs.length >> 1];
  element("rate").textContent = `${rate.toFixed(1)} frames/s, ${median.toFixed(0)} ms a frame`;
  element("action").textContent = labelOf(manifest.actions[action]) || "–";
}

// ---- what is pressed ------------------------------------------------------------------------------------------------

function showHeld() {
  for (const key of document.querySelectorAll("#pad button")) {
    key.classList.toggle("held", held.names.includes(key.dataset.button));
  }
}

function setPaused(value) {
  paused = value;
  element("pause").textContent = paused ? "Resume" : "Pause";
}

function makePad() {
  const buttons = buttonsOf(manifest.actions).sort((a, b) => placeOf(a) - placeOf(b));
  const pad = element("pad");
  pad.replaceChildren();
  for (const name of buttons) {
    const key = document.createElement("button");
    key.type = "button";
    key.dataset.button = name;
    key.textContent = labelOf(name);
    key.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      key.setPointerCapture(event.pointerId);
      held.press(key, name);
      showHeld();
    });
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture"]) {
      key.addEventListener(kind, () => {
        held.release(key);
        showHeld();
      });
    }
    key.addEventListener("contextmenu", (event) => event.preventDefault());
    pad.append(key);
  }
}

// ---- start ----------------------------------------------------------------------------------------------------------

// The service worker keeps the files for offline play, and adds the headers without which a browser allows no threads.
// They count after one reload.
async function serveLocally() {
  if (!navigator.serviceWorker || self.crossOriginIsolated) return;
  try {
    await navigator.serviceWorker.register("./service_worker.js");
    await navigator.serviceWorker.ready;
  } catch {
    return; // not allowed here: one thread, online
  }
  if (sessionStorage.getItem("reloaded")) return;
  sessionStorage.setItem("reloaded", "yes");
  location.reload();
  await new Promise(() => {}); // nothing else until then
}

function describe() {
  makePad();
  document.title = `Play ${manifest.name}`;
  element("help").textContent = `${helpOf(manifest.actions)} R starts again, P pauses.`;
  element("about").textContent = `${manifest.name}: ${manifest.about}`;
  canvas.width = canvas.height = manifest.size;
  element("start").replaceChildren(...manifest.starts.map((start, i) => new Option(start.label, i)));
  element("start").value = manifest.first ?? 0;
}

async function chooseBackend() {
  await loadModel(element("backend").value);
  if (!element("pad").children.length) describe();
  await restart();
}

// Where WebGPU fails, at any time, WebAssembly takes over.
function failed(error) {
  if (element("backend").value === "wasm") return say(`The model does not run here: ${error.message}`);
  notice = `WebGPU does not run the model here: ${error.message}`;
  removeWebgpu();
  chooseBackend().catch(failed);
}

function removeWebgpu() {
  element("backend").value = "wasm";
  element("backend").options[1]?.remove();
}

// A browser may know WebGPU and have no device for it, or refuse it.
async function hasWebgpu() {
  try {
    const { runtime } = await (await fetch("world.json")).json();
    return Boolean(runtime.webgpu && navigator.gpu && (await navigator.gpu.requestAdapter()));
  } catch {
    return false;
  }
}

async function main() {
  if (location.protocol === "file:") {
    return say("Serve this folder, since browsers load no models from files: python -m http.server");
  }
  await serveLocally();
  element("fast").checked = query.has("fast");
  if (!(await hasWebgpu())) removeWebgpu();
  else if (query.get("backend") === "webgpu") element("backend").value = "webgpu";
  const commands = {
    KeyR: (event) => event.repeat || restart().catch(failed),
    KeyP: (event) => event.repeat || setPaused(!paused),
  };
  listen(held, { actions: () => manifest.actions, commands, changed: showHeld, isPlaying: () => Boolean(manifest) });
  element("reset").addEventListener("click", () => restart().catch(failed));
  element("pause").addEventListener("click", () => setPaused(!paused));
  element("start").addEventListener("change", () => restart().catch(failed));
  element("backend").addEventListener("change", () => chooseBackend().catch(failed));
  await chooseBackend();
}

main().catch(failed);
