// One image: what the detectors saw, every detector's score, and where it stands among the others.

const BINS = 40, BRIGHTER = 4, SVG = "http://www.w3.org/2000/svg";
const histograms = {};
let viewed = null;

/** Counts of real and fake scores of the measured images by bin, as shares of their class; the outermost 0.1% are in the outermost bins. */
function histogram(detector, under) {
  const key = `${detector}@${under}`;
  if (histograms[key]) return histograms[key];
  const split = data.names.split.indexOf(data.split);
  const kinds = [[], []];
  data.scores[detector][under].forEach((value, image) => {
    if (value !== null && (split < 0 || data.images.split[image] === split)) kinds[data.images.label[image]].push(value);
  });
  kinds.forEach((values) => values.sort((a, b) => a - b));
  const all = kinds.flat().sort((a, b) => a - b);
  let low = all[Math.floor(0.001 * (all.length - 1))] ?? 0, high = all[Math.ceil(0.999 * (all.length - 1))] ?? 1;
  if (!(high > low)) [low, high] = [low - 0.5, high + 0.5];
  const shares = kinds.map((values) => {
    const counts = new Array(BINS).fill(0);
    for (const value of values) counts[Math.max(0, Math.min(BINS - 1, Math.floor(((value - low) / (high - low)) * BINS)))] += 1 / values.length;
    return counts;
  });
  return (histograms[key] = { low, high, shares, kinds, top: Math.max(...shares.flat(), 1e-9) });
}

/** The share of sorted values that lie below a value. */
function below(values, value) {
  let low = 0, high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < value) low = middle + 1;
    else high = middle;
  }
  return values.length ? low / values.length : null;
}

function drawPart(parent, tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent.append(made);
  return made;
}

/** Reals filled, fakes as a line, the threshold dashed, and this image as a mark. */
function placeFigure(detector, row) {
  const value = score(detector, row), { low, high, shares, top } = histogram(detector, row.under), threshold = data.detectors[detector].threshold;
  const width = 240, height = 56, x = (at) => Math.max(0, Math.min(1, (at - low) / (high - low))) * width, y = (share) => height - (share / top) * (height - 8);
  const svg = drawPart(document.createDocumentFragment(), "svg", { viewBox: `-4 -2 ${width + 8} ${height + 14}`, class: "place", role: "img" });
  svg.setAttribute("aria-label", `Histogram of scores; this image at ${number(value)}. ${placeWords(detector, row)}`);
  const steps = (counts) => counts.map((share, bin) => `L${(bin / BINS) * width} ${y(share)} L${((bin + 1) / BINS) * width} ${y(share)}`).join(" ");
  drawPart(svg, "path", { d: `M0 ${height} ${steps(shares[0])} L${width} ${height} z`, style: "fill:var(--real);fill-opacity:.45" });
  drawPart(svg, "path", { d: `M0 ${height} ${steps(shares[1])} L${width} ${height}`, style: "fill:none;stroke:var(--fake);stroke-width:1.5" });
  drawPart(svg, "path", { d: `M0 ${height} H${width}`, style: "stroke:var(--soft);stroke-width:1" });
  if (threshold !== null && threshold >= low && threshold <= high) {
    drawPart(svg, "path", { d: `M${x(threshold)} 0 V${height}`, style: "stroke:var(--ink);stroke-width:1;stroke-dasharray:3 3" });
  }
  drawPart(svg, "path", { d: `M${x(value)} 0 V${height + 2}`, style: "stroke:var(--ink);stroke-width:2" });
  drawPart(svg, "path", { d: `M${x(value)} ${height + 2} l-5 9 h10 z`, style: "fill:var(--ink)" });
  return svg;
}

function placeWords(detector, row) {
  const value = score(detector, row), [reals, fakes] = histogram(detector, row.under).kinds.map((values) => below(values, value));
  const percent = (share) => (share === null ? "none" : `${Math.round(100 * share)}%`);
  return `Above ${percent(reals)} of the real images and ${percent(fakes)} of the fakes.`;
}

/** A line a detector. */
function scoresTable(row) {
  const calibrated = data.probabilities.some((each) => each !== null);
  const heads = ["detector", "score", ...(calibrated ? ["probability"] : []), "threshold", "answer", "its place among all scores"];
  const body = data.detectors.map(({ name, threshold }, detector) => {
    const value = score(detector, row), answer = verdict(detector, row);
    const cells = [number(value), ...(calibrated ? [number(data.probabilities[detector]?.[row.under][row.image] ?? null)] : []), number(threshold)];
    const told = make("td", {}, answer ? make("span", { className: `badge ${answer === "right" ? "right" : "wrong"}` }, answer) : "–");
    const place = make("td", { className: "words" }, ...(value === null ? ["no score"] : [placeFigure(detector, row), placeWords(detector, row)]));
    const line = [make("th", { scope: "row", role: "rowheader" }, name), ...cells.map((text) => make("td", {}, text)), told, place];
    line.slice(1).forEach((cell, column) => { cell.role = "cell"; cell.dataset.label = heads[column + 1]; });
    return make("tr", { role: "row" }, ...line);
  });
  const legend = make("p", { className: "soft" }, "Histograms of the measured images:", make("span", { className: "key", style: "background:var(--real)" }), "real", make("span", { className: "key", style: "background:var(--fake)" }), "fake; dashed: threshold; mark: this image.");
  const table = tableOf("Scores of this image", heads, body);
  table.classList.add("scores"); // on a phone a card a detector, which would be no table to a screen reader without the roles
  table.querySelector("table").role = "table";
  return [table, legend];
}

function tableOf(label, heads, body) {
  const head = make("thead", {}, make("tr", {}, ...heads.map((text) => make("th", { scope: "col" }, text))));
  return make("div", { className: "scroll", role: "group", "aria-label": label, tabIndex: 0 }, make("table", {}, head, make("tbody", {}, ...body)));
}

/** The scores under every perturbation, each name leading to that view. */
function perturbationsTable(row) {
  if (data.perturbations.length < 2) return [];
  const body = data.perturbations.map((name, under) => {
    const other = { image: row.image, under };
    const cells = data.detectors.map((_, detector) => {
      const answer = verdict(detector, other);
      return make("td", {}, number(score(detector, other)), ...(answer && answer !== "right" ? [" ", make("span", { className: "badge wrong" }, answer)] : []));
    });
    const scored = data.detectors.some((_, detector) => score(detector, other) !== null);
    const link = make("a", { href: fragment(wantedNow(), address(other), page) }, name);
    return make("tr", {}, make("th", { scope: "row" }, under === row.under || !scored ? name : link), ...cells);
  });
  return [make("h4", {}, "Under each perturbation"), tableOf("Scores under each perturbation", ["perturbation", ...data.detectors.map(({ name }) => name)], body)];
}

function pictures(row) {
  const number = data.pictures[`${row.image}@${row.under}`];
  const views = number === undefined ? null : chunk("pictures", number)[`${row.image}@${row.under}`];
  const what = `${isFake(row.image) ? "fake" : "real"} image from ${source(row.image)}`;
  const figure = (name, text) => {
    const faint = name === "residual" ? `, ${BRIGHTER} times as bright` : "";
    const img = make("img", { src: uri(text), alt: `${name} of a ${what}${faint}`, className: name });
    img.addEventListener("load", () => img.classList.toggle("small", Math.max(img.naturalWidth, img.naturalHeight) <= 128));
    return make("figure", {}, img, make("figcaption", {}, `${name}${faint}`));
  };
  if (views) return [make("div", { className: "views" }, ...Object.entries(views).map(([name, text]) => figure(name.replaceAll("_", " "), text)))];
  const small = thumbnail(row.image);
  if (!small) return [make("p", { className: "soft" }, "There is no picture of this image.")];
  const first = data.perturbations.findIndex((_, under) => data.detectors.some((__, detector) => score(detector, { image: row.image, under }) !== null));
  const under = first < 0 || first === row.under ? "" : `, of the image under ${data.perturbations[first]}`;
  return [make("div", { className: "views" }, figure("thumbnail", small)), make("p", { className: "soft" }, `Of this one the report holds a thumbnail only${under}.`)];
}

function factsOf(row) {
  const { images, names } = data, group = names.group[images.group[row.image]];
  const facts = { file: images.path[row.image] || "–", key: images.key[row.image], family: names.family[images.family[row.image]], split: names.split[images.split[row.image]] || "–" };
  const list = make("dl", { className: "facts" }, ...Object.entries(facts).flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)]));
  if (group) {
    const href = fragment({ ...standard, detector: wantedNow().detector, text: GROUP + group });
    list.append(make("dt", {}, "group"), make("dd", {}, make("a", { href, title: "All images of this group" }, group)));
  }
  return list;
}

/** Show a row, whether or not it is among those that were found. */
function show(row, place) {
  viewed = { row, place };
  const under = data.perturbations.length > 1 ? `, ${data.perturbations[row.under]}` : "";
  $("viewed").textContent = `${isFake(row.image) ? "Fake" : "Real"}: ${source(row.image)}${under}`;
  $("view").replaceChildren(...pictures(row), ...scoresTable(row), ...perturbationsTable(row), make("h4", {}, "The file"), factsOf(row));
  $("previous").disabled = place === null || place <= 0;
  $("next").disabled = place === null || place >= rows.length - 1;
  if (!$("viewer").open) $("viewer").showModal();
  const active = document.activeElement; // a button at the end of its way, or a link that is gone, would take the keys with it
  if (active.disabled || !$("viewer").contains(active)) $("viewed").focus();
  $("viewer").scrollTop = 0;
  remember(address(row));
}

function look(place) {
  if (place < 0 || place >= rows.length) return;
  const before = page;
  page = Math.floor(place / PAGE_SIZE);
  focused = place % PAGE_SIZE;
  if (page !== before) draw();
  show(rows[place], place);
}

function lookAt(wanted) {
  const place = rows.findIndex((row) => address(row) === wanted);
  if (place >= 0) return look(place);
  const row = allOf.find((each) => address(each) === wanted);
  if (row) return show(row, null);
  $("count").textContent = `There is no image ${wanted} here. ${$("count").textContent}`;
}

function startViewer() {
  if (!data) return;
  $("previous").addEventListener("click", () => look(viewed.place - 1));
  $("next").addEventListener("click", () => look(viewed.place + 1));
  $("close").addEventListener("click", () => $("viewer").close());
  $("viewer").addEventListener("click", (event) => { if (event.target === $("viewer")) $("viewer").close(); });
  $("viewer").addEventListener("keydown", (event) => {
    if (viewed.place === null || event.altKey || event.ctrlKey || event.metaKey) return;
    const box = event.target.closest(".scroll");
    if (box && box.scrollWidth > box.clientWidth) return; // the keys scroll it
    if (event.key === "ArrowLeft") look(viewed.place - 1);
    if (event.key === "ArrowRight") look(viewed.place + 1);
  });
  $("viewer").addEventListener("close", () => {
    if ($("viewer").open || viewed === null) return; // the browser tells with its next frame: by then it may be open again, or told already
    const { place } = viewed;
    viewed = null;
    remember();
    roam(place === null ? focused : place % PAGE_SIZE); // the browser itself goes back to the tile that was clicked
  });
}

startBrowser();
startViewer();
if (data && !follow()) refresh();
