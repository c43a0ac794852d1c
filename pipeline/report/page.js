"use strict";
const byId = (id) => document.getElementById(id);
const list = byId("cards");
const cards = [...list.children];
const form = document.querySelector(".controls");
const [query, chosenClass, mark, sort, layer] =
  ["query", "class", "mark", "sort", "layer"].map(byId);
const viewer = byId("viewer");
const body = byId("viewer-body");
const nameOf = (card) => card.querySelector(".name").textContent;
const tagsOf = (card) => [...card.querySelectorAll(".chips bdi")].map((tag) => tag.textContent);
const textOf = new Map(cards.map((card) =>
  [card, [nameOf(card), ...tagsOf(card)].join(" ").toLowerCase()]));
const marksOf = (card) => [...card.dataset.marks.split(" "), ...card.classList];
let shown = cards;
let current = null;

/* The gallery: which images, in which order, with what laid over them. */

function matches(card) {
  return query.value.toLowerCase().split(/\s+/).every((word) => textOf.get(card).includes(word))
    && (!chosenClass.value || card.dataset.classes.split(" ").includes(chosenClass.value))
    && (!mark || !mark.value || marksOf(card).includes(mark.value));
}

function comparison() {
  const [key, direction] = sort.value.split(":");
  if (key === "name") return (a, b) => collator.compare(nameOf(a), nameOf(b));
  if (key === "tag") {
    // Images without a tag come last.
    return (a, b) => !a.dataset.tag - !b.dataset.tag || collator.compare(a.dataset.tag, b.dataset.tag);
  }
  if (key === "order") return () => 0;
  const sign = direction === "down" ? -1 : 1;
  // Where the figure is not known the image comes last, whatever the direction.
  const value = (card) => (key in card.dataset ? sign * Number(card.dataset[key]) : Infinity);
  return (a, b) => (value(a) === value(b) ? 0 : value(a) - value(b));
}

function update() {
  const kept = new Set(cards.filter(matches));
  const ordered = [...cards].sort(comparison());
  for (const card of ordered) card.hidden = !kept.has(card);
  list.append(...ordered);
  shown = ordered.filter((card) => kept.has(card));
  byId("count").textContent = cards.length
    ? `${shown.length} of ${cards.length} image${cards.length === 1 ? "" : "s"}`
    : "There is nothing to show yet.";
}

function layOver() {
  for (const card of cards) {
    const over = card.querySelector(".open .over");
    const source = layer.value
      && card.querySelector("template").content.querySelector(`[data-layer="${layer.value}"] .over`);
    over.hidden = !source;
    if (source) over.src = source.src;
    else over.removeAttribute("src");
    over.parentElement.classList.toggle("painted", Boolean(source) && layer.value !== "cam");
  }
}

function chooseOffered() {
  const has = (option) => cards.some((card) => option.dataset.needs in card.dataset);
  for (const option of [...sort.options]) {
    if (option.dataset.needs && !has(option)) option.remove();
  }
  const there = new Set(cards.flatMap((card) =>
    [...card.querySelector("template").content.querySelectorAll("figure")].map((f) => f.dataset.layer)));
  for (const option of [...layer.options]) {
    if (option.value && !there.has(option.value)) option.remove();
  }
  const first = ["prediction", "mask", "cam"].find((name) => there.has(name));
  for (const option of layer.options) option.defaultSelected = option.value === (first ?? "");
  layer.value = first ?? "";
}

/* One image, with all that was computed for it. */

function open(card) {
  if (!card) return;
  current = card;
  body.replaceChildren(card.querySelector("template").content.cloneNode(true));
  const { src } = card.querySelector(".photograph");
  for (const photograph of body.querySelectorAll(".photograph")) photograph.src = src;
  const place = shown.indexOf(card);
  byId("viewer-title").replaceChildren(card.querySelector(".name").firstElementChild.cloneNode(true));
  byId("viewer-place").textContent = `image ${place + 1} of ${shown.length}`;
  byId("previous").disabled = place <= 0;
  byId("next").disabled = place < 0 || place >= shown.length - 1;
  viewer.dispatchEvent(new Event("show"));
  body.scrollTop = viewer.scrollTop = 0; // on phones the whole of it scrolls
  if (!viewer.open) {
    viewer.showModal();
    byId("viewer-title").focus();
  } else if (document.activeElement?.disabled) {
    byId("viewer-title").focus();
  }
  history.replaceState(null, "", `#${card.id}`);
}

const step = (by) => open(shown[shown.indexOf(current) + by]);

viewer.addEventListener("close", () => {
  history.replaceState(null, "", "#gallery");
  body.replaceChildren();
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

/* The keyboard. */

function columns() {
  const top = shown[0].offsetTop;
  const below = shown.findIndex((card) => card.offsetTop > top);
  return below < 0 ? shown.length : below;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
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
    query.focus();
    query.select();
    query.scrollIntoView({ block: "center" });
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
form.addEventListener("input", (event) => { if (event.target === layer) layOver(); else update(); });
// The fields have their first values only after the event.
form.addEventListener("reset", () => setTimeout(() => { update(); layOver(); }));
chooseOffered();
update();
layOver();
if (/^#image-\d+$/.test(location.hash)) open(document.querySelector(location.hash));
