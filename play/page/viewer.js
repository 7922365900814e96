// The page's other views: datasets, runs, evaluations.

const $ = (id) => document.getElementById(id);

async function look(path) {
  const answer = await fetch(`/look/${path}`);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function element(tag, content = [], properties = {}) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...[content].flat());
  return made;
}

function table(head, rows) {
  const line = (cells, tag) => element("tr", cells.map((cell) => element(tag, [cell])));
  return element("div", [element("table", [line(head, "th"), ...rows.map((row) => line(row, "td"))])], { className: "scroll" });
}

function number(value) {
  return typeof value !== "number" ? String(value ?? "") : Number.isInteger(value) ? String(value) : value.toPrecision(4);
}

const COLOURS = ["#5aaaff", "#ffb35a", "#7ddc8a", "#e07be0", "#f0e070", "#ff7a7a", "#7ae0e0", "#b9a2ff", "#c8c8c8", "#a0784c"];

// Frames, and under them what was done when: a stripe with a colour for each action; then what the colours mean.
function timeline(strip, actions) {
  const names = [...new Set(actions)];
  const canvas = element("canvas", [], { width: actions.length, height: 1, className: "band" });
  const pen = canvas.getContext("2d");
  actions.forEach((name, t) => { pen.fillStyle = colour(names, name); pen.fillRect(t, 0, 1, 1); });
  canvas.onmousemove = (event) => {
    const t = Math.min(actions.length - 1, Math.floor(event.offsetX / canvas.clientWidth * actions.length));
    canvas.title = `step ${t}: ${actions[t]}`;
  };
  const legend = names.map((name) => {
    const sign = element("i", [], { className: "sign" });
    sign.style.background = colour(names, name);
    return element("span", [sign, ` ${name} ${actions.filter((other) => other === name).length}×`]);
  });
  const wide = element("div", [element("img", [], { src: strip, alt: "frames" }), canvas], { className: "timeline" });
  return [element("div", [wide], { className: "scroll" }), element("p", legend, { className: "row" })];
}

function colour(names, name) {
  return COLOURS[names.indexOf(name) % COLOURS.length];
}

// Lines of [x, y] pairs by name, in one plot with the range of both axes.
function plot(title, lines) {
  const [width, height, margin] = [320, 170, 22];
  const canvas = element("canvas", [], { width, height });
  const points = Object.values(lines).flat();
  const range = (k) => [Math.min(...points.map((p) => p[k])), Math.max(...points.map((p) => p[k]))];
  const [[left, right], [low, high]] = [range(0), range(1)];
  const pen = canvas.getContext("2d");
  pen.font = "11px system-ui";
  Object.entries(lines).forEach(([name, line], i) => {
    pen.strokeStyle = pen.fillStyle = COLOURS[i % COLOURS.length];
    pen.beginPath();
    for (const [x, y] of line) {
      pen.lineTo(margin + (x - left) / (right - left || 1) * (width - 2 * margin), height - margin - (y - low) / (high - low || 1) * (height - 2 * margin));
    }
    pen.stroke();
    pen.fillText(name, margin + 30, 12 + 12 * i);
  });
  pen.fillStyle = "#9aa3b2";
  pen.fillText(number(high), 2, margin + 4);
  pen.fillText(number(low), 2, height - margin);
  pen.fillText(number(left), margin, height - 6);
  pen.fillText(number(right), width - 2 * margin, height - 6);
  return element("figure", [canvas, element("figcaption", [title])]);
}

async function showDatasets() {
  const sets = await look("datasets");
  const out = element("div");
  const choose = (set, k, i) => element("button", [String(i)], { onclick: () => showEpisode(out, set, k, i) });
  $("datasets").replaceChildren(...sets.flatMap((set, k) => [
    element("h2", [`${set.dataset} / ${set.name}`]),
    table(Object.keys(set.statistics), [Object.values(set.statistics).map((v) => (typeof v === "object" ? JSON.stringify(v) : number(v)))]),
    table(["episode", "level", "session", "frames", "rewards"], set.episodes.slice(0, 200).map((row, i) => [choose(set, k, i), ...row.map(number)])),
  ]), ...(sets.length ? [] : ["No datasets in play.datasets_dpath."]), out);
}

async function showEpisode(out, set, k, i) {
  const episode = await look(`episode/${k}/${i}`);
  const curve = (column) => column.map((value, t) => [t, value]).filter((point) => point[1] !== null);
  const columns = Object.entries({ rewards: episode.rewards, ...episode.infos }).map(([name, column]) => [name, curve(column)]);
  const changing = columns.filter(([, line]) => line.some((point) => point[1] !== line[0][1]));
  const constant = columns.filter(([, line]) => line.length && line.every((point) => point[1] === line[0][1]));
  out.replaceChildren(
    element("h3", [`${set.name}, episode ${i} (${episode.policy})`]),
    ...timeline(`/look/strip/${k}/${i}`, episode.actions),
    element("details", [element("summary", ["all actions in order"]), element("p", [episode.actions.join(" ")], { className: "scroll" })]),
    element("div", changing.map(([name, line]) => plot(name, { [name]: line })), { className: "plots" }),
    element("p", [`always the same: ${constant.map(([name, line]) => `${name} ${number(line[0][1])}`).join(", ") || "nothing"}`]),
  );
  out.scrollIntoView();
}

// Runs that are ticked share the same plots.
async function showRuns() {
  const runs = await look("runs");
  const out = element("div");
  const ticked = new Map();
  const tick = async (run, box) => {
    const loaded = box.checked ? await look(`run/${run.id}`) : null;
    // The mark may have been taken away while the run was loaded.
    if (loaded && box.checked) ticked.set(run.id, loaded); else ticked.delete(run.id);
    drawRuns(out, ticked);
  };
  $("runs").replaceChildren(
    element("div", runs.map((run) => element("label", [
      element("input", [], { type: "checkbox", onchange: (event) => tick(run, event.target) }), ` ${run.name}`,
    ])), { className: "row" }),
    ...(runs.length ? [] : ["No runs in play.runs_dpath."]), out,
  );
}

function drawRuns(out, ticked) {
  const lines = (metric) => Object.fromEntries([...ticked.values()].filter((run) => run.curves[metric]).map((run) => [run.name, run.curves[metric]]));
  // What says whether a model is good comes first, how fast it was made last.
  const all = [...new Set([...ticked.values()].flatMap((run) => Object.keys(run.curves)))].sort();
  const metrics = [...all.filter((name) => !name.startsWith("train/")), ...all.filter((name) => name.startsWith("train/"))];
  const search = element("input", [], { placeholder: "only metrics with …", oninput: () => filter(plots, search.value) });
  const plots = element("div", metrics.map((metric) => plot(metric, lines(metric))), { className: "plots" });
  out.replaceChildren(
    ...(metrics.length ? [search] : []), plots, ...configurations([...ticked.values()]),
    ...[...ticked].flatMap(([id, run]) => [element("h3", [run.name]), pictures("run", id, run.images)]),
  );
}

// Of several runs what differs, of one run all.
function configurations(runs) {
  const keys = [...new Set(runs.flatMap((run) => Object.keys(run.config)))].sort();
  const value = (run, key) => (Object.hasOwn(run.config, key) ? run.config[key] : "");
  const shown = runs.length === 1 ? keys : keys.filter((key) => runs.some((run) => value(run, key) !== value(runs[0], key)));
  if (!shown.length) return [];
  const content = table(["key", ...runs.map((run) => run.name)], shown.map((key) => [key, ...runs.map((run) => value(run, key))]));
  const title = runs.length === 1 ? "Configuration" : "Configuration that differs";
  return [element("details", [element("summary", [title]), content], { open: runs.length > 1 })];
}

function filter(plots, text) {
  for (const each of plots.children) each.hidden = !each.textContent.includes(text);
}

function pictures(kind, id, images) {
  return element("div", images.map(([key, name]) => element("figure", [
    element("img", [], { src: `/look/image/${kind}/${id}/${key}`, alt: name, loading: "lazy" }), element("figcaption", [name]),
  ])), { className: "plots" });
}

async function showEvaluations() {
  const all = await look("evaluations");
  const metrics = [...new Set(all.flatMap((each) => Object.keys(each.metrics)))].sort();
  $("evaluations").replaceChildren(
    table(["metric", ...all.map((each) => each.name)], metrics.map((name) => [name, ...all.map((each) => number(each.metrics[name]))])),
    ...all.flatMap((each) => [element("h3", [each.name]), pictures("evaluation", each.id, each.images)]),
    ...(all.length ? [] : ["No evaluations in play.evaluations_dpath."]),
  );
}

const VIEWS = { datasets: showDatasets, runs: showRuns, evaluations: showEvaluations };
for (const button of document.querySelectorAll("nav button")) {
  const view = VIEWS[button.dataset.view];
  if (view) button.addEventListener("click", () => view().catch((error) => $(button.dataset.view).replaceChildren(String(error))));
}
