"use strict";
/* The state of the page is its address: ?q=words or ?like=uid, where=column|operator|value, top=24, rerank=1.
   Text from videos and their makers enters as text alone, never as markup. */

const byId = (id) => document.getElementById(id);
const OPERATORS = ["==", "!=", "<", "<=", ">", ">=", "in"];
const RERANK_TOP = 100;
let about = { columns: {}, max_top: 100 };
let running = null;

function make(name, { text, on, ...attributes } = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) node.setAttribute(key, value);
  }
  if (text !== undefined) node.textContent = text;
  for (const [event, listener] of Object.entries(on ?? {})) node.addEventListener(event, listener);
  node.append(...children);
  return node;
}

function readState() {
  const words = new URLSearchParams(location.search);
  const where = words.getAll("where").map((line) => {
    const [column, op, ...value] = line.split("|");
    return { column, op: op ?? "==", value: value.join("|") };
  });
  const like = words.get("like") ?? "";
  return { q: like ? "" : words.get("q") ?? "", like, where, top: words.get("top") ?? "12", rerank: words.has("rerank") };
}

function addressOf(state) {
  const words = new URLSearchParams();
  if (state.like) words.set("like", state.like);
  else if (state.q) words.set("q", state.q);
  for (const { column, op, value } of state.where) words.append("where", `${column}|${op}|${value}`);
  if (state.top !== "12") words.set("top", state.top);
  if (state.rerank) words.set("rerank", "1");
  return words.size ? `/?${words}` : "/";
}

function formState(changes = {}) {
  const where = [...byId("conditions").children].map((line) => {
    const [column, op, value] = line.querySelectorAll("select,input");
    return { column: column.value, op: op.value, value: value.value.trim() };
  });
  const q = byId("query").value.trim();
  return {
    q,
    like: q ? "" : readState().like,
    where: where.filter(({ column, value }) => column && value),
    top: byId("top").value,
    rerank: byId("rerank").checked,
    ...changes,
  };
}

function go(state) {
  history.pushState(null, "", addressOf(state));
  show(state);
}

function fillForm(state) {
  byId("query").value = state.q;
  byId("conditions").replaceChildren(...state.where.map(conditionLine));
  if (![...byId("top").options].some((option) => option.value === state.top)) {
    byId("top").append(make("option", { text: state.top }));
  }
  byId("top").value = state.top;
  byId("rerank").checked = state.rerank;
  byId("count").textContent = state.where.length ? ` (${state.where.length})` : "";
  if (state.where.length) openFilters(true);
}

function conditionLine({ column, op, value }) {
  const columns = Object.keys(about.columns);
  if (column && !columns.includes(column)) columns.push(column);
  const line = make("li", {},
    make("select", { "aria-label": "column" }, ...columns.map((name) =>
      make("option", { value: name, text: about.columns[name] ? `${name} (${about.columns[name]})` : name }))),
    make("select", { "aria-label": "operator" }, ...OPERATORS.map((name) => make("option", { text: name }))),
    make("input", { type: "text", "aria-label": "value", placeholder: "value, or values with commas for in", value,
      on: { keydown: (event) => event.key === "Enter" && byId("search").requestSubmit() } }),
    make("button", { type: "button", text: "Remove", on: { click: () => { line.remove(); } } }));
  const [columnSelect, opSelect] = line.querySelectorAll("select");
  if (column) columnSelect.value = column;
  opSelect.value = op;
  return line;
}

function openFilters(isOpen) {
  byId("filters").hidden = !isOpen;
  byId("toggle").setAttribute("aria-expanded", String(isOpen));
}

function bodyOf(state) {
  const where = state.where.map(({ column, op, value }) =>
    ({ column, op, value: op === "in" ? value.split(",").map((part) => part.trim()) : value }));
  const top = Number(state.top);
  const body = { top, where };
  if (state.like) return { ...body, like: state.like };
  return state.rerank ? { ...body, query: state.q, rerank_top: Math.max(top, RERANK_TOP) } : { ...body, query: state.q };
}

async function show(state) {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  fillForm(state);
  byId("trouble").hidden = true;
  const isAsked = Boolean(state.q || state.like);
  byId("hint").hidden = isAsked;
  byId("about").hidden = true;
  document.title = state.q ? `${state.q} · F-Pig search` : "F-Pig search";
  if (!isAsked) {
    byId("results").replaceChildren();
    byId("status").textContent = "";
    return;
  }
  byId("results").setAttribute("aria-busy", "true");
  byId("status").textContent = "Searching …";
  try {
    const start = performance.now();
    const answer = await fetch("/search", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(bodyOf(state)), signal });
    const told = await answer.json().catch(() => null);
    if (!answer.ok || !told) throw Object.assign(new Error(`status ${answer.status}`), { told: told?.error });
    showResults(state, told, performance.now() - start);
  } catch (error) {
    if (signal.aborted) return;
    showTrouble(error.told, state);
  }
  byId("results").removeAttribute("aria-busy");
}

function showResults(state, told, milliseconds) {
  if (state.like) showOrigin(state);
  byId("results").replaceChildren(...told.results.map(card));
  const found = told.results.length === 1 ? "1 video" : `${told.results.length} videos`;
  const among = `of ${told.num_videos.toLocaleString("en")} in ${Math.round(milliseconds)} ms`;
  byId("status").textContent = told.results.length ? `The best ${found} ${among}` :
    "No video meets these conditions. Remove one, or choose other values.";
}

function showOrigin(state) {
  byId("about").replaceChildren(
    make("img", { src: `/thumbnails/${encodeURIComponent(state.like)}.jpg`, alt: "" }),
    make("span", { text: "Videos like this one" }),
    make("button", { type: "button", text: "Back", on: { click: () => history.back() } }));
  byId("about").hidden = false;
}

function showTrouble(told, state) {
  byId("results").replaceChildren();
  byId("status").textContent = "";
  const lines = told
    ? [`Got ${told.got}${told.wanted ? `, wanted ${told.wanted}` : ""}.`, told.remedy]
    : ["The service does not answer.", "It may be starting again: try in a moment."];
  byId("trouble").replaceChildren(
    ...lines.filter(Boolean).map((line) => make("p", { text: line[0].toUpperCase() + line.slice(1) })),
    make("button", { type: "button", text: "Try again", on: { click: () => show(state) } }));
  byId("trouble").hidden = false;
}

function card(found) {
  const caption = found.captions[0] ?? "";
  const view = make("div", { class: "view" });
  const picture = make("img", { src: found.thumbnail, alt: "", loading: "lazy", decoding: "async" });
  const play = make("button", { type: "button", class: "play", "aria-label": `Play ${caption || found.video_id}`,
    on: { click: () => startVideo(view, found) } }, picture);
  picture.addEventListener("error", () => {
    play.classList.add("gone");
    play.replaceChildren(make("span", { class: "missing", text: "No picture of this video" }));
  });
  view.append(play, make("span", { class: "rank", text: found.rank }));
  if (found.start_s !== null || found.end_s !== null) {
    view.append(make("span", { class: "time", text: `${clock(found.start_s ?? 0)} – ${found.end_s === null ? "end" : clock(found.end_s)}` }));
  }
  const text = make("div", { class: "text" }, make("p", { class: "captions", dir: "auto", text: caption || "(no caption)" }));
  if (found.captions.length > 1) {
    text.append(make("details", {}, make("summary", { text: `${found.captions.length - 1} more` }),
      make("ul", {}, ...found.captions.slice(1).map((line) => make("li", { dir: "auto", text: line })))));
  }
  text.append(make("div", { class: "facts" },
    make("span", { dir: "auto", text: found.video_id }),
    make("span", { title: "inner product, or what the second stage gave", text: `score ${found.score?.toFixed(3) ?? "–"}` })));
  const actions = make("div", { class: "actions" },
    make("button", { type: "button", class: "like", text: "More like this",
      on: { click: () => { go(formState({ like: found.uid, q: "" })); scrollTo(0, 0); } } }));
  if (found.tokens) {
    actions.append(make("button", { type: "button", class: "tokens", text: "Kept patches", on: { click: () => showKept(found) } }));
  }
  return make("li", { class: "card" }, view, text, actions);
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  const minutes = String(Math.floor(whole / 60) % 60);
  const rest = `${String(whole % 60).padStart(2, "0")}${seconds === whole ? "" : `.${Math.floor((seconds - whole) * 10)}`}`;
  return whole < 3600 ? `${minutes}:${rest}` : `${Math.floor(whole / 3600)}:${minutes.padStart(2, "0")}:${rest}`;
}

function startVideo(view, found) {
  for (const other of document.querySelectorAll("video")) other.pause();
  const from = found.start_s ?? 0;
  const span = found.end_s === null ? `${from}` : `${from},${found.end_s}`;
  const video = make("video", { controls: "", autoplay: "", playsinline: "", preload: "metadata", poster: found.thumbnail,
    src: `${found.video}#t=${span}` });
  video.addEventListener("error", () => {
    video.replaceWith(make("p", { class: "missing", text: "This video cannot be played here: it is gone, or its format is not one of the browser's." }));
  });
  view.replaceChildren(video);
  video.focus();
}

async function showKept(found) {
  const picture = byId("kept-picture");
  picture.hidden = true;
  picture.alt = `Frames of ${found.video_id}; patches that the model kept are outlined`;
  byId("kept-status").textContent = "The model looks at the video …";
  byId("kept").showModal();
  picture.onload = () => { picture.hidden = false; byId("kept-status").textContent = ""; };
  picture.onerror = () => { byId("kept-status").textContent = "There is no picture of this video's patches."; };
  picture.src = found.tokens;
}

function moveFocus(step) {
  const cards = [...document.querySelectorAll(".card")];
  const at = cards.findIndex((node) => node.contains(document.activeElement));
  const next = cards[Math.min(cards.length - 1, Math.max(0, at + step))];
  next?.querySelector("button,video")?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input,select")) return;
  if (event.key === "/") { event.preventDefault(); byId("query").focus(); }
  else if (event.key === "j") moveFocus(1);
  else if (event.key === "k") moveFocus(-1);
  else if (event.key === "m") document.activeElement.closest(".card")?.querySelector(".like").click();
});
byId("search").addEventListener("submit", (event) => { event.preventDefault(); go(formState()); });
byId("toggle").addEventListener("click", () => openFilters(byId("filters").hidden));
byId("add").addEventListener("click", () => {
  const line = conditionLine({ column: "", op: "==", value: "" });
  byId("conditions").append(line);
  line.querySelector("select").focus();
});
byId("top").addEventListener("change", () => go(formState()));
addEventListener("popstate", () => show(readState()));

(async () => {
  try {
    about = await (await fetch("/healthz")).json();
    byId("model").textContent = `${about.num_videos.toLocaleString("en")} videos · model ${about.model_id} (${about.method})`;
    byId("rerank-label").hidden = !about.reranks;
  } catch {
    byId("model").textContent = "The service does not answer.";
  }
  show(readState());
})();
