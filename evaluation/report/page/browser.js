// The image browser: which images are shown, in which order, and the address that leads there. A row is an image under a perturbation.

const FRAGMENT = "images", PAGE_SIZE = 60;
const CONTROLS = ["detector", "sort", "dataset", "source", "label", "answer", "perturbation", "split", "from", "to", "text"];
const GROUP = "group:"; // before the whole name of a group
const PAUSE = 150; // milliseconds without a key before a text is looked for
let data = null, standard = {}, allOf = [], rows = [], asked = "", page = 0, focused = 0, waiting = 0;
const chunks = {};

/** Pictures are read from the page's text only when the first of their chunk is shown. */
function chunk(kind, number) {
  chunks[kind] ??= [...document.querySelectorAll(`script.${kind}`)];
  const element = chunks[kind][number];
  if (!element) return null;
  element.parsed ??= JSON.parse(element.textContent);
  return element.parsed;
}

const uri = (text) => `data:image/webp;base64,${text}`;
const thumbnail = (image) => chunk("thumbnails", Math.floor(image / data.chunk))?.[image % data.chunk] ?? null;
const score = (detector, row) => data.scores[detector][row.under][row.image];
const source = (image) => data.names.source[data.images.source[image]];
const isFake = (image) => data.images.label[image] === 1;
const address = (row) => `${data.names.dataset[data.images.dataset[row.image]]}/${data.images.key[row.image]}@${data.perturbations[row.under]}`;

/** `right`, `missed`, `false alarm`, or null where there is no answer. */
function verdict(detector, row) {
  const answer = data.answers[detector][row.under][row.image];
  if (answer === "-") return null;
  if ((answer === "1") === isFake(row.image)) return "right";
  return isFake(row.image) ? "missed" : "false alarm";
}

function number(value) {
  if (value === null) return "–";
  const text = Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(3) : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
}

function allRows() {
  const found = [];
  data.perturbations.forEach((_, under) => {
    for (let image = 0; image < data.images.key.length; image++) {
      if (data.scores.some((scores, detector) => scores[under][image] !== null || data.answers[detector][under][image] !== "-")) found.push({ image, under });
    }
  });
  return found;
}

/** Where a score stands among a detector's under a perturbation, in [0, 1]; detectors' scores have no common scale, their ranks have. */
function ranks(detector, under) {
  const scores = data.scores[detector][under];
  const order = scores.map((value, image) => [value, image]).filter(([value]) => value !== null).sort(([a], [b]) => a - b);
  const found = new Array(scores.length).fill(null);
  for (let start = 0, end; start < order.length; start = end) {
    for (end = start; end < order.length && order[end][0] === order[start][0]; ) end++;
    const place = (start + end - 1) / 2 / Math.max(1, order.length - 1); // equal scores stand at one place
    for (let each = start; each < end; each++) found[order[each][1]] = place;
  }
  return found;
}
const known = {};
const rankOf = (detector, row) => (known[`${detector}@${row.under}`] ??= ranks(detector, row.under))[row.image];

function orderBy(wanted) {
  const detector = data.detectors.findIndex(({ name }) => name === wanted.detector);
  const one = (row) => score(detector, row);
  if (wanted.sort === "high") return (row) => (one(row) === null ? null : -one(row));
  if (wanted.sort === "low") return one;
  if (wanted.sort === "source") return null;
  if (wanted.sort === "apart") {
    return (row) => {
      const found = data.detectors.map((_, each) => rankOf(each, row)).filter((value) => value !== null);
      return found.length < 2 ? null : Math.min(...found) - Math.max(...found);
    };
  }
  const threshold = data.detectors[detector].threshold ?? 0; // without one: what looks most like the other class
  return (row) => (one(row) === null ? null : isFake(row.image) ? one(row) - threshold : threshold - one(row));
}

function matching(wanted) {
  const detector = data.detectors.findIndex(({ name }) => name === wanted.detector);
  const code = (column) => (wanted[column] === "" ? -1 : data.names[column].indexOf(wanted[column] === "(none)" ? "" : wanted[column]));
  const codes = { dataset: code("dataset"), source: code("source"), split: code("split") };
  const under = wanted.perturbation === "" ? -1 : data.perturbations.indexOf(wanted.perturbation);
  const low = wanted.from === "" ? -Infinity : Number(wanted.from), high = wanted.to === "" ? Infinity : Number(wanted.to);
  const bounded = wanted.from !== "" || wanted.to !== "", text = wanted.text.toLowerCase();
  const answers = { wrong: ["missed", "false alarm"], right: ["right"], missed: ["missed"], alarm: ["false alarm"] }[wanted.answer];
  const { images, names } = data;
  const group = text.startsWith(GROUP) ? text.slice(GROUP.length) : null;
  return (row) => {
    const { image } = row;
    if (under >= 0 && row.under !== under) return false;
    for (const column in codes) if (codes[column] >= 0 && images[column][image] !== codes[column]) return false;
    if (wanted.label !== "" && images.label[image] !== Number(wanted.label)) return false;
    if (answers && !answers.includes(verdict(detector, row))) return false;
    if (bounded) {
      const value = score(detector, row);
      if (value === null || value < low || value > high) return false;
    }
    if (!text) return true;
    if (group !== null) return names.group[images.group[image]].toLowerCase() === group;
    return [images.path[image], images.key[image], names.group[images.group[image]]].some((each) => each.toLowerCase().includes(text));
  };
}

/** Rows that match, in order; what has no value goes last, and equals stand by generator. */
function find(wanted) {
  const by = orderBy(wanted), { images } = data;
  const keyed = allOf.filter(matching(wanted)).map((row) => [by ? by(row) : 0, row]);
  keyed.sort(([a, one], [b, other]) => {
    if (a !== b) return a === null ? 1 : b === null ? -1 : a - b;
    return images.source[one.image] - images.source[other.image] || one.image - other.image || one.under - other.under;
  });
  return keyed.map(([, row]) => row);
}
function wantedNow() {
  const form = $("filters").elements;
  return Object.fromEntries(CONTROLS.map((name) => [name, form[name].value]));
}

/** The fragment says what differs from the view that the page opens with, so that it stays short. */
function fragment(wanted, image = "", at = 0) {
  const told = new URLSearchParams(CONTROLS.filter((name) => wanted[name] !== standard[name]).map((name) => [name, wanted[name]]));
  if (at) told.set("page", at + 1);
  if (image) told.set("image", image);
  const text = told.toString();
  return text ? `#${FRAGMENT}?${text}` : `#${FRAGMENT}`;
}

function remember(image = "") {
  try {
    history.replaceState(null, "", fragment(wantedNow(), image, page));
  } catch { /* browsers allow about 100 in half a minute: the next one says it */ }
}

function tile(row, place, detector) {
  const told = isFake(row.image) ? "fake" : "real", value = number(score(detector, row)), answer = verdict(detector, row), text = thumbnail(row.image);
  const under = data.perturbations.length > 1 ? `, ${data.perturbations[row.under]}` : "";
  const button = make("button", { type: "button", className: `tile ${told}`, tabIndex: place === focused ? 0 : -1 });
  button.setAttribute("aria-label", `${told} image from ${source(row.image)}${under}, score ${value}${answer ? `, ${answer}` : ""}`);
  button.append(text ? make("img", { src: uri(text), alt: "", loading: "lazy", decoding: "async" }) : make("span", { className: "none" }, "no picture"));
  const line = make("span", {}, value);
  if (answer) line.append(" ", make("span", { className: `badge ${answer === "right" ? "right" : "wrong"}` }, answer));
  button.append(line, make("span", { title: source(row.image) }, source(row.image).split("/").at(-1)));
  if ($("filters").elements.perturbation.value === "") button.append(make("span", {}, data.perturbations[row.under]));
  button.addEventListener("click", () => { focused = place; look(page * PAGE_SIZE + place); });
  button.addEventListener("focus", () => roam(place, false));
  return make("li", {}, button);
}

/** One tile takes part in the order of Tab; arrow keys go from one to the next. */
function roam(place, move = true) {
  const tiles = [...$("tiles").querySelectorAll(".tile")];
  if (!tiles.length) return;
  focused = Math.max(0, Math.min(place, tiles.length - 1));
  tiles.forEach((each, number) => { each.tabIndex = number === focused ? 0 : -1; });
  if (move) tiles[focused].focus();
}

function draw() {
  const wanted = wantedNow(), detector = data.detectors.findIndex(({ name }) => name === wanted.detector);
  const pages = Math.max(1, Math.ceil(rows.length / PAGE_SIZE));
  page = Math.max(0, Math.min(page, pages - 1));
  const shown = rows.slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE);
  focused = Math.min(focused, Math.max(0, shown.length - 1));
  $("tiles").replaceChildren(...shown.map((row, place) => tile(row, place, detector)));
  const fakes = rows.filter(({ image }) => isFake(image)).length, several = data.perturbations.length > 1 && wanted.perturbation === "";
  const total = rows.length.toLocaleString("en"), kinds = `${(rows.length - fakes).toLocaleString("en")} real, ${fakes.toLocaleString("en")} fake`;
  $("count").textContent = rows.length ? `${total} ${several ? "images and perturbations" : "images"}: ${kinds}.` : "No image is like that: widen a filter, or show all.";
  $("page").textContent = `Page ${page + 1} of ${pages}`;
  $("before").disabled = page === 0;
  const active = document.activeElement;
  $("after").disabled = page >= pages - 1;
  if (active === $("after") && active.disabled) $("before").focus();
  if (active === $("before") && active.disabled) $("after").focus();
}

function refresh() {
  clearTimeout(waiting);
  rows = find(wantedNow());
  asked = fragment(wantedNow());
  draw();
}

/** Go to another page, where there is one. */
function turn(by, place = 0) {
  if (page + by < 0 || (page + by) * PAGE_SIZE >= rows.length) return false;
  page += by;
  focused = place;
  draw();
  remember();
  return true;
}

function onKey(event) {
  const tiles = [...$("tiles").querySelectorAll(".tile")];
  const across = tiles.filter((each) => each.offsetTop === tiles[0]?.offsetTop).length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across };
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key in steps) {
    const next = focused + steps[event.key];
    if (next >= tiles.length && turn(1)) roam(0);
    else if (next < 0 && page > 0 && turn(-1, PAGE_SIZE - 1)) roam(PAGE_SIZE - 1);
    else if (next >= 0 && next < tiles.length) roam(next);
  } else if (event.key === "Home") roam(0);
  else if (event.key === "End") roam(tiles.length - 1);
  else if (event.key === "PageDown" && turn(1)) roam(0);
  else if (event.key === "PageUp" && turn(-1)) roam(0);
  else if (!["PageDown", "PageUp"].includes(event.key)) return;
  event.preventDefault();
}

function fill(name, values, all) {
  const select = $("filters").elements[name];
  const options = values.map((value) => make("option", { value: value === "" ? "(none)" : value }, value === "" ? "(none)" : value));
  select.replaceChildren(...(all && values.length > 1 ? [make("option", { value: "" }, "all")] : []), ...options);
}

function setControls(wanted) {
  const form = $("filters").elements;
  for (const name of CONTROLS) {
    const told = wanted[name] ?? standard[name];
    if (form[name].value !== told) form[name].value = told; // else a number that is being typed would be written anew
    if (form[name].tagName === "SELECT" && form[name].selectedIndex < 0) form[name].value = standard[name];
  }
  const answered = data.detectors.find(({ name }) => name === form.detector.value).threshold !== null;
  form.answer.disabled = !answered;
  if (!answered) form.answer.value = "";
  form.answer.title = answered ? "" : "This detector has no threshold, so it calls no image real or fake";
}

/** Show what the address says, when the page opens, a link is followed or the address is edited; whether it says anything of images. */
function follow() {
  const [name, query] = location.hash.slice(1).split("?");
  if (name !== FRAGMENT) return false;
  const told = new URLSearchParams(query ?? "");
  setControls(Object.fromEntries(told));
  page = Math.max(0, (Number.parseInt(told.get("page") ?? "1", 10) || 1) - 1);
  focused = 0;
  refresh();
  const image = told.get("image");
  if ($("viewer").open && !image) {
    viewed.place = null;
    $("viewer").close();
  }
  $(FRAGMENT).focus({ preventScroll: true });
  $(FRAGMENT).scrollIntoView();
  if (image) lookAt(image);
  return true;
}

function changed() {
  page = focused = 0;
  setControls(wantedNow());
  refresh();
  remember();
}

function startBrowser() {
  if (!$("image-data")) return;
  data = JSON.parse($("image-data").textContent);
  fill("detector", data.detectors.map(({ name }) => name), false);
  fill("dataset", data.names.dataset, true);
  fill("source", data.names.source, true);
  fill("perturbation", data.perturbations, true);
  fill("split", data.names.split, true);
  if (data.detectors.length < 2) $("filters").elements.sort.querySelector("[value=apart]").remove();
  const measured = data.names.split.includes(data.split) ? data.split : $("filters").elements.split.options[0].value;
  const first = { detector: data.detectors[0].name, sort: "mistakes", perturbation: data.perturbations[0], split: measured };
  standard = Object.fromEntries(CONTROLS.map((name) => [name, first[name] ?? $("filters").elements[name].options?.[0]?.value ?? ""]));
  allOf = allRows();
  setControls(standard);
  $("browser").hidden = false;
  // Leaving a text that was found already is a change, too: it must not take away the tile that is being clicked.
  $("filters").addEventListener("change", () => { if (fragment(wantedNow()) !== asked) changed(); });
  for (const name of ["text", "from", "to"]) {
    $("filters").elements[name].addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(changed, PAUSE);
    });
  }
  $("filters").addEventListener("submit", (event) => event.preventDefault());
  $("filters").addEventListener("reset", (event) => { event.preventDefault(); setControls(standard); changed(); });
  $("before").addEventListener("click", () => turn(-1));
  $("after").addEventListener("click", () => turn(1));
  $("tiles").addEventListener("keydown", onKey);
  window.addEventListener("hashchange", follow);
}
