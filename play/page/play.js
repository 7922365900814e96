// The page's game: keys and touch to actions, a websocket to the server, frames to canvases.

import { chooseAction, Held, helpOf, listen, placeOf } from "./keys.js";

const $ = (id) => document.getElementById(id);
const SIGNS = { RIGHT: "→", LEFT: "←", UP: "↑", DOWN: "↓", ACTION_JUMP: "space", ACTION_PRIMARY: "space", ACTION_SECONDARY: "x" };

const state = {
  socket: null, hello: null, key: sessionStorage.getItem("key") || "", frame: null, retries: 0,
  isPaused: false, isWaiting: false, isLeaving: false, sentAt: 0, latencies: [], arrivals: [],
  held: new Held(), queue: [], start: null,
};
window.play = state; // For tests and for the curious.

// ---- connection ---------------------------------------------------------------------------------------------------

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/socket?key=${encodeURIComponent(state.key)}`);
  let wasOpen = false;
  socket.binaryType = "arraybuffer";
  socket.onopen = () => { wasOpen = true; };
  socket.onmessage = (event) => receive(event.data);
  socket.onclose = (event) => lost(event, wasOpen);
  state.socket = socket;
}

async function lost(event, wasOpen) {
  state.isWaiting = false;
  state.queue = [];
  if (state.isLeaving) return;
  // There is no place, which the server has said at length.
  if (event.code === 1013) return;
  if ([1001, 1008].includes(event.code)) {
    tell(`${event.reason || "The server has ended the game."} Reload the page to play again.`, true);
    return;
  }
  tell("Connection lost, trying again …", true);
  const refusal = wasOpen ? "" : await whyRefused();
  if (refusal) return tell(refusal, true);
  setTimeout(connect, Math.min(4000, 250 * 2 ** state.retries++));
}

// A server that refuses a connection, as for an old token, looks like one that is away until it is asked for a page.
async function whyRefused() {
  try {
    const answer = await fetch("/");
    return answer.status === 403 ? await answer.text() : "";
  } catch {
    return "";
  }
}

// Messages wait for each other's answers: at most one is on its way.
function send(message) {
  if (state.isWaiting || state.socket?.readyState !== WebSocket.OPEN) {
    if (!(message instanceof ArrayBuffer) && message.do === "step") return;
    state.queue = [...state.queue.filter((other) => other.do !== message.do || message instanceof ArrayBuffer), message];
    return;
  }
  state.isWaiting = true;
  state.sentAt = performance.now();
  state.sent = message;
  state.socket.send(message instanceof ArrayBuffer ? message : JSON.stringify(message));
}

function receive(data) {
  const length = new DataView(data).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const body = new Uint8Array(data, 4 + length);
  if (header.is === "hello") return welcome(header);
  if (header.is === "frame") show(header, body);
  if (header.is === "problem") problem(header.text);
  if (header.is === "recording") save(body, header.kind);
  if (["recording", "kept"].includes(header.is)) tell(header.text);
  if (state.isWaiting) {
    state.isWaiting = false;
    // What "Start again" repeats: the last start that has worked.
    if (header.is === "frame" && isStart(state.sent)) state.start = state.sent;
    if (state.sent.do === "step") note(state.latencies, performance.now() - state.sentAt);
    const next = state.queue.shift();
    if (next) send(next);
  }
}

function problem(text) {
  state.isPaused = true;
  tell(text, true);
  controls();
}

function welcome(hello) {
  state.hello = hello;
  state.key = hello.key;
  state.retries = 0;
  sessionStorage.setItem("key", hello.key);
  [$("model").height, $("model").width] = hello.shown_size;
  [$("game").height, $("game").width] = hello.size;
  $("keep").hidden = !hello.keeps;
  $("heat").width = $("heat").height = hello.grid;
  $("fps").value ||= hello.fps;
  fill($("source"), hello.sources, (name) => name.replace("_", " "));
  fill($("level"), hello.levels, ([name, isKnown]) => name + (isKnown ? "" : " (not trained on)"), (_, i) => i);
  $("level").value = hello.first_level;
  $("trained_on").textContent = hello.trained_on && `The model was trained on levels ${hello.trained_on}; it has never seen others.`;
  $("hint").textContent = hint(hello.actions);
  fill($("environment"), hello.environments, (each) => each.name, (_, i) => i);
  $("from_episode").hidden = !hello.environments.length;
  $("from_level").hidden = !hello.levels.length;
  $("with_game").hidden = !hello.has_game;
  Object.assign($("browser"), { href: hello.browser || "", hidden: !hello.browser });
  listEpisodes();
  // Buttons that nobody can let go of any more.
  state.held.clear();
  drawActions();
  if (hello.is_resumed) return tell("Connected again.");
  tell("Ready.");
  startAnew();
}

// At the level where the included model predicts best; of other models, at a recorded episode.
function startAnew() {
  if (state.start) begin(state.start);
  else if (state.hello.environments.length && !state.hello.begins_at_level) startEpisode();
  else if (state.hello.levels.length) startLevel();
  else tell("Give an image to start from.");
}

function begin(message) {
  tell("Starting …");
  // Else a start after an error would stand still.
  state.isPaused = false;
  controls();
  send(message);
}

function isStart(message) {
  return message instanceof ArrayBuffer || message.do.startsWith("start_");
}

// A larger one would end the connection.
async function beginImage(file) {
  const most = state.hello.max_image_bytes;
  const megabytes = (bytes) => Math.ceil(bytes / 2 ** 20);
  if (file.size > most) tell(`The image has ${megabytes(file.size)} MB, at most ${megabytes(most)} MB are taken.`, true);
  else begin(await file.arrayBuffer());
}

function hint(actions) {
  if (matchMedia("(pointer: coarse)").matches) return "Hold a button.";
  return `${helpOf(actions)} R starts again, P pauses, N steps one frame.`;
}

// ---- frames -------------------------------------------------------------------------------------------------------

function show(header, body) {
  state.frame = header;
  let offset = 0;
  for (const [name, size] of Object.entries(header.parts)) {
    const pixels = body.subarray(offset, offset + size);
    offset += size;
    if (name === "entropy") drawHeat(pixels);
    else drawPixels($(name), pixels);
  }
  if (!header.parts.entropy) $("heat").getContext("2d").clearRect(0, 0, $("heat").width, $("heat").height);
  $("beside").hidden = !header.parts.game;
  const psnr = header.psnr === null ? "" : `(PSNR ${header.psnr.toFixed(1)} dB)`;
  $("psnr").textContent = header.game_is_over ? "(the game has ended)" : psnr;
  note(state.arrivals, performance.now());
  state.modelTime = header.ms;
  if (state.sent?.do !== "step") tell(header.label);
  controls();
}

function drawPixels(canvas, rgb) {
  const image = new ImageData(canvas.width, canvas.height);
  for (let i = 0, k = 0; i < rgb.length; i += 3, k += 4) {
    image.data[k] = rgb[i];
    image.data[k + 1] = rgb[i + 1];
    image.data[k + 2] = rgb[i + 2];
    image.data[k + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function drawHeat(shares) {
  const image = new ImageData($("heat").width, $("heat").height);
  shares.forEach((share, i) => image.data.set([255, 60, 20, share], 4 * i));
  $("heat").getContext("2d").putImageData(image, 0, 0);
}

function controls() {
  const frame = state.frame;
  if (!frame) return;
  Object.assign($("time"), { min: frame.first, max: frame.last });
  $("time").value = frame.time;
  $("source").value = frame.source;
  $("show_game").checked = frame.has_game;
  for (const option of $("source").options) option.disabled = option.value === "recorded" && !frame.can_follow;
  $("pause").textContent = state.isPaused ? "Resume" : "Pause";
  const acting = frame.source === "keys" ? heldAction() : frame.action;
  [...$("actions").children].forEach((button, i) => button.classList.toggle("held", i === acting));
}

// ---- actions ------------------------------------------------------------------------------------------------------

function heldAction() {
  return chooseAction(state.held.names, state.hello?.actions || []);
}

function drawActions() {
  $("actions").replaceChildren(...state.hello.actions.map((name, i) => {
    const button = document.createElement("button");
    const sign = document.createElement("small");
    sign.textContent = name.split("+").map((part) => SIGNS[part] || "").join(" ") || (i < 9 ? `key ${i + 1}` : "");
    button.append(name.replace("ACTION_", ""), sign);
    button.dataset.button = name;
    button.style.order = placeOf(name);
    button.onpointerdown = (event) => { event.preventDefault(); state.held.press(button, name); controls(); };
    for (const end of ["onpointerup", "onpointercancel", "onpointerleave"]) {
      button[end] = () => { state.held.release(button); controls(); };
    }
    button.oncontextmenu = (event) => event.preventDefault();
    return button;
  }));
}

// ---- time ---------------------------------------------------------------------------------------------------------

let due = 0;
function tick(now) {
  requestAnimationFrame(tick);
  if (!state.frame || state.isPaused || state.isWaiting || now < due || $("play").hidden) return;
  const action = heldAction() ?? state.hello.idle_action;
  if (state.frame.source === "keys" && action === null) return;
  due = Math.max(now - 50, due) + 1000 / Math.max(1, Number($("fps").value) || 15);
  send({ do: "step", action: action ?? 0 });
}

function once() {
  state.isPaused = true;
  send({ do: "step", action: heldAction() ?? state.hello.idle_action ?? 0 });
}

function togglePause() {
  state.isPaused = !state.isPaused;
  if (!state.isPaused) tell("");
  controls();
}

function note(list, value) {
  list.push(value);
  if (list.length > 120) list.shift();
}

setInterval(() => {
  const recent = state.arrivals.filter((time) => time > performance.now() - 2000);
  const sorted = [...state.latencies].sort((a, b) => a - b);
  if (!sorted.length) return;
  const at = (share) => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))].toFixed(0);
  $("figures").textContent = `${(recent.length / 2).toFixed(1)} frames/s · latency ${at(0.5)} ms (95 %: ${at(0.95)} ms) · ` +
    `the server needs ${state.modelTime?.toFixed(0)} ms a frame · frame ${state.frame?.time}`;
}, 500);

// ---- the other controls -------------------------------------------------------------------------------------------

function tell(text, isProblem = false) {
  $("status").textContent = text;
  $("status").classList.toggle("problem", isProblem);
}

function fill(select, items, text, value = (item) => item) {
  select.replaceChildren(...items.map((item, i) => new Option(text(item, i), value(item, i))));
}

function listEpisodes() {
  const episodes = state.hello.environments[$("environment").value]?.episodes || [];
  fill($("episode"), episodes, ([instance, session, frames]) => `level ${instance}, ${session} (${frames} frames)`, (_, i) => i);
  $("episode").value = Math.min(episodes.length - 1, state.hello.environments[$("environment").value]?.first || 0);
  $("frame").value = state.hello.num_prime - 1;
}

function startEpisode() {
  const frames = state.hello.environments[$("environment").value].episodes[$("episode").value][2];
  const time = Math.max(0, Math.min(frames - 1, Math.floor(Number($("frame").value)) || 0));
  begin({ do: "start_episode", environment: Number($("environment").value), episode: Number($("episode").value), time });
}

function startLevel() {
  begin({ do: "start_level", level: Number($("level").value) });
}

function save(body, kind) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([body], { type: kind === "gif" ? "image/gif" : "video/mp4" }));
  link.download = `play.${kind}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function record(kind) {
  if (state.frame) send({ do: "record", kind, first: state.frame.first, last: state.frame.last });
}

$("pause").onclick = togglePause;
$("once").onclick = once;
$("source").onchange = () => send({ do: "source", name: $("source").value });
$("show_game").onchange = () => send({ do: "game", on: $("show_game").checked });
$("show_heat").onchange = () => { $("heat").hidden = !$("show_heat").checked; };
$("time").oninput = () => { state.isPaused = true; send({ do: "rewind", time: Number($("time").value) }); };
$("gif").onclick = () => record("gif");
$("mp4").onclick = () => record("mp4");
$("keep").onclick = () => record("episode");
$("environment").onchange = listEpisodes;
$("start_episode").onclick = startEpisode;
$("start_level").onclick = startLevel;
$("again").onclick = startAnew;
$("picture").onchange = () => { if ($("picture").files[0]) beginImage($("picture").files[0]); };
listen(state.held, {
  actions: () => state.hello?.actions || [],
  commands: { KeyP: (event) => event.repeat || togglePause(), KeyR: (event) => event.repeat || startAnew(), KeyN: once },
  changed: controls,
  isPlaying: () => Boolean(state.hello) && !$("play").hidden,
});
addEventListener("pagehide", () => {
  state.isLeaving = true;
  if (state.socket?.readyState === WebSocket.OPEN) state.socket.close(1000);
});
for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => {
    state.held.clear();
    for (const main of document.querySelectorAll("main")) main.hidden = main.id !== button.dataset.view;
    for (const other of document.querySelectorAll("nav button")) other.classList.toggle("chosen", other === button);
  });
}
connect();
requestAnimationFrame(tick);
