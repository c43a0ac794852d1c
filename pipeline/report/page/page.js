"use strict";
const byId = (id) => document.getElementById(id);
const facts = JSON.parse(byId("gallery").dataset.corrections);
const list = byId("cards");
const cards = [...list.children];
const form = document.querySelector(".controls");
const [query, chosenClass, classIn, mark, sort, layer] =
  ["query", "class", "class-in", "mark", "sort", "layer"].map(byId);
const viewer = byId("viewer");
const body = byId("viewer-body");
const nameOf = (card) => card.querySelector(".name").textContent;
const labelled = new Map(cards.map((card) => [card, JSON.parse(card.dataset.classes)]));
let shown = cards;
let current = null; // the card in the viewer
let place = 0; // of it among those shown, or of the one that follows if it is shown no longer
let overlay = "", laid = null; // what cards have unless they are plain, and what they have

/* What this browser keeps of a person's choices. */

function recall(name) {
  try { return JSON.parse(localStorage.getItem(name)); } catch { return null; }
}

function remember(name, value) {
  try { localStorage.setItem(name, JSON.stringify(value)); } catch { byId("unkept").hidden = false; }
}

/* The gallery: which images, in which order, with what laid over them. */

function matches(card, classes) {
  const text = [nameOf(card), ...tagsOf(card)].join(" ").toLowerCase();
  return query.value.toLowerCase().split(/\s+/).every((word) => text.includes(word))
    && (!chosenClass.value || classes.includes(chosenClass.value))
    && (!mark || !mark.value || card.classList.contains(mark.value));
}

function comparison() {
  const [key, direction] = sort.value.split(":");
  if (key === "name") return (a, b) => collator.compare(nameOf(a), nameOf(b));
  if (key === "tag") {
    // Images without a tag come last.
    const first = new Map(cards.map((card) => [card, tagsOf(card)[0] ?? ""]));
    return (a, b) => !first.get(a) - !first.get(b) || collator.compare(first.get(a), first.get(b));
  }
  if (key === "order") return () => 0;
  const sign = direction === "down" ? -1 : 1;
  // Where the figure is not known the image comes last, whatever the direction.
  const value = (card) => (key in card.dataset ? sign * Number(card.dataset[key]) : Infinity);
  return (a, b) => (value(a) === value(b) ? 0 : value(a) - value(b));
}

function offerClasses(names) {
  const chosen = chosenClass.value, counts = new Map(chosen ? [[chosen, 0]] : []);
  for (const name of names) counts.set(name, (counts.get(name) ?? 0) + 1);
  const offered = facts.classes.filter((name) => counts.has(name));
  chosenClass.replaceChildren(chosenClass.options[0],
    ...offered.map((name) => new Option(`${name} (${counts.get(name)})`, name)));
  chosenClass.value = chosen;
}

function update() {
  const focused = document.activeElement, from = shown.indexOf(focused.closest(".card"));
  const classes = new Map(cards.map((card) => [card, classesOf(card)]));
  offerClasses([...classes.values()].flat());
  const ordered = [...cards].sort(comparison());
  for (const card of ordered) card.hidden = !matches(card, classes.get(card));
  if (ordered.some((card, k) => card !== list.children[k])) list.append(...ordered);
  shown = ordered.filter((card) => !card.hidden);
  // The focus stays where it was, or goes to the image that took the place of one that is gone.
  const gone = from >= 0 && focused.closest(".card").hidden;
  const target = gone ? shown[Math.min(from, shown.length - 1)]?.querySelector(".open") : focused;
  if (target !== document.activeElement) target?.focus({ preventScroll: true });
  byId("count").textContent = cards.length
    ? `${shown.length} of ${cards.length} image${cards.length === 1 ? "" : "s"}`
    : "There is nothing to show yet.";
  offerTaking();
  if (viewer.open) showPlace();
  else layOver();
}

function layOver() {
  // Masks hide what one corrects tags by, in the order of their doubts.
  const plain = recall("plain photographs") ?? sort.value.startsWith("doubt");
  byId("plain").checked = plain;
  viewer.classList.toggle("plain", plain);
  layer.value = plain ? "" : overlay;
  if (laid === layer.value) return;
  laid = layer.value;
  for (const card of cards) {
    const over = card.querySelector(".open .over");
    const source = laid
      && card.querySelector("template").content.querySelector(`[data-layer="${laid}"] .over`);
    over.hidden = !source;
    if (source) over.src = source.src;
    else over.removeAttribute("src");
    over.parentElement.classList.toggle("painted", Boolean(source) && laid !== "cam");
  }
}

function chooseOffered() {
  const keep = (field, isKept) => { for (const o of [...field.options]) if (!isKept(o)) o.remove(); };
  keep(sort, ({ dataset: { needs } }) => !needs || cards.some((card) => needs in card.dataset));
  keep(classIn, ({ value }) => cards.some((card) => value in labelled.get(card)));
  classIn.parentElement.hidden = classIn.options.length < 2;
  const there = new Set(cards.flatMap((card) =>
    [...card.querySelector("template").content.querySelectorAll("figure")].map((f) => f.dataset.layer)));
  keep(layer, ({ value }) => !value || there.has(value));
  overlay = ["prediction", "mask", "cam"].find((name) => there.has(name)) ?? "";
}

/* One image, with all that was computed for it. */

function open(card) {
  if (!card) return;
  current = card;
  layOver();
  body.replaceChildren(card.querySelector("template").content.cloneNode(true));
  const { src } = card.querySelector(".photograph");
  for (const photograph of body.querySelectorAll(".photograph")) photograph.src = src;
  byId("viewer-title").replaceChildren(card.querySelector(".name").firstElementChild.cloneNode(true));
  showPlace();
  byId("tagging").hidden = !imageOf.has(card);
  if (imageOf.has(card)) showTags(card);
  body.scrollTop = viewer.scrollTop = 0; // on phones the whole of it scrolls
  if (!viewer.open) {
    viewer.showModal();
    byId("viewer-title").focus();
  } else if (document.activeElement?.disabled) {
    byId("viewer-title").focus();
  }
  history.replaceState(null, "", `#${card.id}`);
}

const neighbour = (by) => shown[place + (by > 0 && shown[place] !== current ? 0 : by)];
const step = (by) => open(neighbour(by));

function showPlace() {
  const at = shown.indexOf(current);
  if (at >= 0) place = at;
  byId("viewer-place").textContent = at < 0 ? "no longer among those shown" : `image ${at + 1} of ${shown.length}`;
  byId("previous").disabled = !neighbour(-1);
  byId("next").disabled = !neighbour(1);
}

viewer.addEventListener("close", () => {
  history.replaceState(null, "", "#gallery");
  body.replaceChildren();
  layOver();
  const button = current?.querySelector(".open");
  button?.focus();
  button?.scrollIntoView({ block: "nearest" });
});
// A click beside the dialog is one on the dialog itself.
viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("close").addEventListener("click", () => viewer.close());
byId("strength").addEventListener("input", (event) =>
  viewer.style.setProperty("--strength", event.target.value));
byId("size").addEventListener("input", (event) =>
  viewer.style.setProperty("--size", `${event.target.value}px`));
byId("names").addEventListener("change", (event) =>
  viewer.classList.toggle("unnamed", !event.target.checked));
byId("plain").addEventListener("change", ({ target }) => {
  remember("plain photographs", target.checked);
  layOver();
});

/* The keyboard. */

function columns() {
  const top = shown[0].offsetTop;
  const below = shown.findIndex((card) => card.offsetTop > top);
  return below < 0 ? shown.length : below;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("#menu")) return;
  const typing = event.target.closest("input, select, textarea");
  if (viewer.open) {
    // Tables that scroll sideways, and sliders, have a use of their own for these keys.
    const busy = typing && event.target.type === "range";
    if (event.key === "ArrowLeft" && !busy) step(-1);
    else if (event.key === "ArrowRight" && !busy) step(1);
    else return;
    event.preventDefault();
    return;
  }
  if (event.key === "/" && !typing) {
    event.preventDefault();
    query.focus({ preventScroll: true });
    query.select();
    form.scrollIntoView({ block: "start" });
    return;
  }
  const from = shown.indexOf(event.target.closest(".card"));
  if (from < 0) return;
  const moves = { ArrowLeft: () => -1, ArrowRight: () => 1, ArrowUp: () => -columns(), ArrowDown: columns };
  const move = moves[event.key];
  if (!move) return;
  event.preventDefault();
  shown[from + move()]?.querySelector(".open").focus();
});

list.addEventListener("click", (event) => {
  const button = event.target.closest(".open");
  if (button) open(button.closest(".card"));
});
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", (event) => {
  if (event.target !== layer) return update();
  overlay = layer.value || overlay;
  remember("plain photographs", !layer.value);
  layOver();
});
// The fields have their first values only after the event.
form.addEventListener("reset", () => setTimeout(() => { chooseOffered(); update(); }));
byId("fold").addEventListener("click", ({ target }) => target.setAttribute("aria-expanded", target.ariaExpanded === "false"));
