// The drawn part of the explorer. Python computes everything; this file draws it and says what the reader did.
//
// From Python: `map` (the shared words in both planes), `shown` (one setting's results), `doing` (what is being
// computed), `failure` (why there is no picture of the setting), `answers` (to the typed subject), `history`.
// To Python: `weights` ({"vector word": weight} of the bars), `subject`, and messages {do: ...} of the buttons.

const SIDES = ["source", "target"];
const WIDTH = 340, HEIGHT = 270, MARGIN = 16; // of a map, in its own units
const SHARPNESS = 2; // pixels of a map's canvas in such a unit

// Cosines from 0 to 1, light to dark: a fixed scale, the same as in the static figure (seaborn's crest).
const SCALE = ["#a5cd90", "#7dba91", "#5aa68f", "#40938d", "#287f8c", "#1c6a88", "#23547f", "#2c3172"];
const colour = (cosine) => SCALE[Math.min(SCALE.length - 1, Math.max(0, Math.floor(cosine * SCALE.length)))];
const percent = (share) => `${(100 * share).toFixed(0)} %`;
const length = (share) => `${(100 * share).toFixed(2)}%`; // in CSS

function make(kind, attributes = {}, ...children) {
  const svg = ["svg", "circle", "path", "text", "g", "title"].includes(kind);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", kind) : document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const section = (name, heading, ...children) =>
  make("section", { class: name, "aria-label": heading }, make("h4", {}, heading), ...children);

// --- the linked map ---------------------------------------------------------------------------------

/** Both maps: `build()` for new words, `update()` for new cosines and vectors, and `light(what)`.
 *
 * The words are on a canvas, as a page with thousands of circles takes twice as long to draw; the stars, and what is
 * lit, lie over it.
 */
function linkedMap(model) {
  const maps = {}, caption = make("p", { class: "caption", "aria-live": "polite" });
  const places = {}; // {side: [[x, y] of each word, in the units of the map]}
  let words = [], columns = new Map(), scale = {};

  for (const side of SIDES) {
    const canvas = make("canvas", { width: WIDTH * SHARPNESS, height: HEIGHT * SHARPNESS, role: "img" });
    const svg = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}` }, make("g", { class: "stars" }), make("g", { class: "lit" }));
    svg.addEventListener("pointermove", (event) => light(nearest(side, event)));
    svg.addEventListener("pointerleave", () => light(null));
    const title = make("h5"), node = make("figure", {}, title, make("div", { class: "plane" }, canvas, svg));
    maps[side] = { canvas, svg, title, node };
  }

  function build() {
    const map = model.get("map");
    words = map.words ?? [];
    columns = new Map(words.map((word, i) => [word, i]));
    for (const side of SIDES) {
      const points = map[side] ?? [], [xs, ys] = [0, 1].map((axis) => points.map((point) => point[axis]));
      const range = [xs, ys].map((values) => { // a few words that lie far out are drawn at the edge
        const sorted = [...values].sort((a, b) => a - b), out = Math.floor(sorted.length / 100);
        return [sorted[out], sorted[sorted.length - 1 - out]];
      });
      scale[side] = ([x, y]) => [[x, 0, WIDTH], [y, 1, HEIGHT]].map(([value, axis, size]) => {
        const [low, high] = range[axis], share = Math.min(1, Math.max(0, (value - low) / (high - low || 1)));
        return MARGIN + (axis ? 1 - share : share) * (size - 2 * MARGIN);
      });
      places[side] = points.map(scale[side]);
      const { canvas, title } = maps[side];
      title.textContent = `${map.names?.[side] ?? side} (${side})`;
      canvas.setAttribute("aria-label", `Map of ${words.length} shared words in ${map.names?.[side]}; stars are the prompt's vectors`);
    }
    light(null);
  }

  /** The word or star under the pointer, if one is near. */
  function nearest(side, event) {
    const { svg } = maps[side], box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * WIDTH, y = ((event.clientY - box.top) / box.height) * HEIGHT;
    const stars = (model.get("shown").stars?.[side] ?? []).map(scale[side]);
    const near = (points) => points.reduce((best, [px, py], i) => {
      const distance = Math.hypot(px - x, py - y);
      return distance < best[1] ? [i, distance] : best;
    }, [null, 10]);
    const [star] = near(stars), [word] = near(places[side]);
    return star !== null ? { star } : word !== null ? { word: words[word] } : null;
  }

  /** The cosines of a word, by its column, to the vectors of one side. */
  function cosines(side, column) {
    const shown = model.get("shown"), vectors = shown.stars?.[side].length ?? 0;
    return (shown.cosines?.[side] ?? []).slice(column * vectors, (column + 1) * vectors).map((percent) => percent / 100);
  }

  /** The words, each coloured by its highest cosine to a vector, and near ones above the others. */
  function dots() {
    for (const side of SIDES) {
      const context = maps[side].canvas.getContext("2d");
      const highest = places[side].map((_, i) => Math.max(0, ...cosines(side, i)));
      context.setTransform(SHARPNESS, 0, 0, SHARPNESS, 0, 0);
      context.clearRect(0, 0, WIDTH, HEIGHT);
      for (const i of [...highest.keys()].sort((a, b) => highest[a] - highest[b])) {
        context.beginPath();
        context.arc(...places[side][i], 1.3 + 2.5 * highest[i], 0, 2 * Math.PI);
        context.fillStyle = colour(highest[i]);
        context.fill();
      }
    }
  }

  function stars() {
    for (const side of SIDES) {
      const layer = maps[side].svg.querySelector(".stars");
      layer.replaceChildren(...(model.get("shown").stars?.[side] ?? []).map((star, i) => {
        const [x, y] = scale[side](star);
        const arms = [...Array(10).keys()].map((k) => {
          const radius = k % 2 ? 3.2 : 7.5, angle = (Math.PI * k) / 5 - Math.PI / 2;
          return `${(x + radius * Math.cos(angle)).toFixed(1)},${(y + radius * Math.sin(angle)).toFixed(1)}`;
        });
        return make("g", { "data-star": i + 1 }, make("path", { d: `M${arms.join("L")}Z` }),
          make("text", { x: x + 8, y: y - 5 }, String(i + 1)));
      }));
    }
  }

  /** Light a word, or a vector and its nearest words, on both sides; null puts all lights out. */
  function light(what) {
    const { nearest: near } = model.get("shown"), lines = [];
    const lit = { source: [], target: [] };
    if (what?.word !== undefined) for (const side of SIDES) lit[side] = [what.word];
    if (what?.star !== undefined) for (const side of SIDES) lit[side] = near.filter((row) => row.vector === what.star + 1).map((row) => row[side][0]);
    for (const side of SIDES) {
      const layer = maps[side].svg.querySelector(".lit");
      layer.replaceChildren(...lit[side].filter((word) => columns.has(word)).map((word) => {
        const [x, y] = places[side][columns.get(word)], left = x > WIDTH * 0.65;
        return make("g", { "data-lit": word }, make("circle", { cx: x, cy: y, r: 6 }),
          make("text", { x: left ? x - 9 : x + 9, y: y + 4, "text-anchor": left ? "end" : "start" }, word));
      }));
      maps[side].svg.querySelectorAll(".stars > g").forEach((star, i) => star.classList.toggle("on", what?.star === i));
      if (what?.word !== undefined && columns.has(what.word)) {
        lines.push(`${side}: ${cosines(side, columns.get(what.word)).map((c) => c.toFixed(2)).join(", ")}`);
      }
    }
    caption.textContent = what === null ? "Point at a word or a star: the same lights up on the other side."
      : what.star !== undefined ? `vector ${what.star + 1} and its nearest words`
      : `“${what.word}”: cosine to vectors 1 to ${model.get("shown").stars.source.length}: ${lines.join("; ")}`;
  }

  const legend = make("div", { class: "scale" }, "highest cosine to a vector: 0", make("span", {},
    ...SCALE.map((step) => make("i", { style: `background:${step}` }))), "1   ★ the prompt's vectors");
  const node = section("map", "Shared words in both spaces",
    make("div", { class: "pair" }, ...SIDES.map((side) => maps[side].node)), legend, caption);
  return { node, build, light, update() { dots(); stars(); } };
}

// --- the mixture's bars -----------------------------------------------------------------------------

/** The heaviest words of each vector as sliders; a drag, an arrow key or × changes `weights`. */
function mixtureBars(model, light) {
  const node = section("mixture", "Words of the mixture"), rows = new Map();
  let layout = "";

  const key = (vector, word) => `${vector} ${word}`;

  function weigh(vector, word, weight) {
    const weights = model.get("weights"), mine = key(vector, word);
    const others = Object.entries(weights).filter(([name]) => name !== mine && name.startsWith(`${vector} `));
    const left = 1 - others.reduce((sum, [, value]) => sum + value, 0);
    const bounded = Math.round(1000 * Math.max(0, Math.min(weight, left))) / 1000;
    model.set("weights", { ...weights, [mine]: bounded });
    model.save_changes();
    fill(rows.get(mine), bounded); // at once; Python's answer follows
  }

  function fill(bar, weight) {
    bar.track.style.setProperty("--weight", length(weight));
    bar.track.setAttribute("aria-valuenow", Math.round(100 * weight));
    bar.number.textContent = percent(weight);
  }

  function bar(vector, { word }) {
    const track = make("div", { class: "track", role: "slider", tabindex: 0, "aria-valuemin": 0, "aria-valuemax": 100,
      "aria-label": `weight of ${word} in vector ${vector + 1}`, title: "drag, or use the arrow keys" }, make("b"));
    const at = (event) => {
      const box = track.getBoundingClientRect();
      return (event.clientX - box.left) / box.width;
    };
    track.addEventListener("pointerdown", (event) => {
      track.setPointerCapture(event.pointerId);
      weigh(vector, word, at(event));
    });
    track.addEventListener("pointermove", (event) => track.hasPointerCapture(event.pointerId) && weigh(vector, word, at(event)));
    track.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 0.05, ArrowUp: 0.05, ArrowLeft: -0.05, ArrowDown: -0.05 }[event.key];
      if (!step) return;
      event.preventDefault();
      weigh(vector, word, track.getAttribute("aria-valuenow") / 100 + step);
    });
    const number = make("output");
    const name = make("span", { class: "word", onpointerenter: () => light({ word }), onpointerleave: () => light(null) }, word);
    const out = make("button", { title: `knock out “${word}”`, "aria-label": `knock out ${word} in vector ${vector + 1}`,
      onclick: () => weigh(vector, word, 0) }, "×");
    rows.set(key(vector, word), { track, number });
    return make("div", { class: "bar" }, name, track, number, out);
  }

  function update() {
    const mixture = model.get("shown").mixture ?? [];
    const now = JSON.stringify(mixture.map((vector) => vector.map(({ word }) => word)));
    if (now !== layout || !node.querySelector(".vectors, .none")) {
      layout = now;
      rows.clear();
      const empty = make("p", { class: "none" }, "Free vectors are not made of words. With a prompt that is a mixture, its words stand here as bars to drag or knock out.");
      const vectors = make("div", { class: "vectors" }, ...mixture.map((vector, i) =>
        make("div", {}, make("h6", {}, `vector ${i + 1}`), ...vector.map((word) => bar(i, word)))));
      const back = make("button", { class: "reset", onclick: () => { model.set("weights", {}); model.save_changes(); } }, "weights as tuned");
      node.replaceChildren(node.firstChild, ...(mixture.length ? [vectors, back] : [empty]));
    }
    mixture.forEach((vector, i) => vector.forEach(({ word, weight }) => fill(rows.get(key(i, word)), weight)));
  }

  return { node, update };
}

// --- tables -----------------------------------------------------------------------------------------

function scoreBars(shown) {
  const row = ({ label, p, low, high, n, pinned }) => make("tr", { "data-label": label }, make("th", {}, label),
    make("td", { class: "plot" }, make("div", { class: "score", style: `--p:${length(p)};--low:${length(low)};--high:${length(high)}` },
      make("b"), make("i"), ...(pinned === null ? [] : [make("u", { style: `--p:${length(pinned)}`, title: `pinned: ${percent(pinned)}` })]))),
    make("td", { class: "number" }, `${(100 * p).toFixed(1)}`), make("td", { class: "interval" }, `${(100 * low).toFixed(0)}–${(100 * high).toFixed(0)}`));
  const scores = shown.scores ?? [];
  return [make("table", {}, ...scores.map(row)),
    make("p", { class: "caption" }, `% of ${scores[0]?.n ?? 0} test facts, with Wilson's 95 % interval` + (scores.some(({ pinned }) => pinned !== null) ? "; ◆ pinned setting" : ""))];
}

function factLists(shown) {
  const { against, gained, lost } = shown.facts ?? { against: "", gained: [], lost: [] };
  const list = (name, rows, text) => make("div", { class: name }, make("h6", {}, `${rows.length} ${name}`),
    make("ul", {}, ...rows.map((row) => make("li", {}, text(row)))));
  return [make("p", { class: "caption" }, `compared with ${against}`), make("div", { class: "lists" },
    list("gained", gained, ([subject, object]) => `${subject}: ${object}`),
    list("lost", lost, ([subject, object, instead]) => `${subject}: ${object}, now ${instead}`))];
}

function wordTable(shown, light) {
  const cell = (both) => ([word, cosine]) => [make("td", { class: both ? "word both" : "word", "data-word": word,
    onpointerenter: () => light({ word }), onpointerleave: () => light(null) }, word),
    make("td", { class: "cosine", style: `background:${colour(cosine)};color:${cosine >= 0.5 ? "#fff" : "#111"}` }, cosine.toFixed(2))];
  const rows = (shown.nearest ?? []).map(({ vector, rank, source, target, both }) => make("tr", { class: rank === 1 ? "first" : null },
    make("th", {}, rank === 1 ? String(vector) : ""), ...cell(both.includes(source[0]))(source), ...cell(both.includes(target[0]))(target)));
  return [make("table", {}, make("tr", {}, make("th", {}, "vector"), make("th", { colspan: 2 }, "on the source"), make("th", { colspan: 2 }, "moved, on the target")), ...rows),
    make("p", { class: "caption" }, "Nearest shared words and their cosine; bold: near the vector on both sides.")];
}

function answerTable(answers) {
  if (answers.failure) return [make("p", { class: "failure", role: "alert" }, answers.failure)];
  if (!answers.rows) return [];
  const cell = ([word, probability]) => [make("td", { class: word === answers.object ? "word right" : "word" }, word + (word === answers.object ? " ✓" : "")),
    make("td", { class: "number" }, `${(100 * probability).toFixed(1)} %`)];
  return [make("table", {}, make("tr", {}, make("th", { colspan: 2 }, answers.names.source), make("th", { colspan: 2 }, answers.names.target)),
    ...answers.rows.map(({ source, target }) => make("tr", {}, ...cell(source), ...cell(target))))];
}

// --- the whole --------------------------------------------------------------------------------------

function save(name, bytes, type) {
  const link = make("a", { href: URL.createObjectURL(new Blob([bytes], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function render({ model, el }) {
  const map = linkedMap(model), light = (what) => map.light(what), mixture = mixtureBars(model, light);
  const head = make("header"), status = make("p", { class: "status", role: "status" });
  const scores = section("scores", "P@1"), facts = section("facts", "Facts gained and lost"), words = section("words", "Nearest words");
  const options = make("datalist", { id: `subjects-${Math.random().toString(36).slice(2)}` });
  let typing; // asked when the reader pauses, because Enter may only close the list of suggestions
  const ask = () => { model.set("subject", subject.value); model.save_changes(); };
  const subject = make("input", { type: "text", placeholder: "a subject", list: options.id, "aria-label": "subject",
    oninput: () => { clearTimeout(typing); typing = setTimeout(ask, 400); } });
  const answers = make("div"), history = make("ol"), code = make("pre"), open = make("details", {}, make("summary", {}, "code"), code);
  const button = (text, message) => make("button", { onclick: () => model.send(message) }, text);
  const exports = make("div", { class: "buttons" }, button("save picture", { do: "picture" }), button("save prompt", { do: "prompt" }), button("save code", { do: "code" }));
  const asked = section("answers", "Ask both models", subject, options, answers);
  const past = section("past", "History", history, exports, open);
  const body = make("div", { class: "body" }, make("div", { class: "outcome" }, scores, facts), words, map.node, mixture.node, asked, past);

  function refill(node, children) { node.replaceChildren(node.firstChild, ...children); }

  function update() {
    const shown = model.get("shown");
    head.replaceChildren(make("h3", {}, shown.title ?? ""), make("p", {}, shown.setting ?? ""));
    code.textContent = shown.code ?? "";
    options.replaceChildren(...(shown.subjects ?? []).map((value) => make("option", { value })));
    refill(scores, scoreBars(shown));
    refill(facts, factLists(shown));
    refill(words, wordTable(shown, light));
    map.update();
    mixture.update();
  }

  function say() {
    const failure = model.get("failure"), doing = model.get("doing");
    status.textContent = failure || doing;
    status.classList.toggle("failure", Boolean(failure));
    body.classList.toggle("old", Boolean(failure || doing));
    body.setAttribute("aria-busy", Boolean(doing));
  }

  function remember() {
    history.replaceChildren(...model.get("history").map(({ number, text, p, pinned, current }) => make("li", { class: current ? "current" : null, "data-number": number },
      make("button", { class: "pin", "aria-pressed": pinned, title: pinned ? "unpin" : "pin, to compare with", onclick: () => model.send({ do: "pin", number }) }, pinned ? "◆" : "◇"),
      make("button", { class: "back", title: `back to ${text}`, onclick: () => model.send({ do: "restore", number }) }, text),
      make("span", { class: "number" }, percent(p)))));
  }

  model.on("change:map", () => { map.build(); update(); });
  model.on("change:shown", update);
  model.on("change:doing", say);
  model.on("change:failure", say);
  model.on("change:history", remember);
  model.on("change:answers", () => answers.replaceChildren(...answerTable(model.get("answers"))));
  model.on("msg:custom", ({ name, type }, [bytes]) => save(name, bytes, type));
  el.classList.add("ptlib-picture");
  el.setAttribute("data-lm-suppress-shortcuts", "true"); // keys here are not the notebook's
  el.append(head, status, body);
  map.build();
  update();
  say();
  remember();
  subject.value = model.get("subject");
  answers.replaceChildren(...answerTable(model.get("answers")));
}

export default { render };
