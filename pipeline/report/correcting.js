
/* Corrections of tags. They stay in this browser until a run has read the file that "Save" writes. */

const facts = JSON.parse(byId("gallery").dataset.corrections);
const imageOf = new Map(cards.filter((card) => card.dataset.image).map((card) => {
  const { tags, found, ...rest } = JSON.parse(card.dataset.image);
  const names = (indices) => indices.map((index) => facts.classes[index]);
  return [card, { ...rest, tags: names(tags), found: names(found) }];
}));
const imageOfId = new Map([...imageOf.values()].flatMap((image) => image.ids.map((id) => [id, image])));
const earlier = new Map();  // split → id → names
for (const [split, id, names] of facts.earlier) {
  earlier.set(split, (earlier.get(split) ?? new Map()).set(id, names));
}
const ofSplit = earlier.get(facts.split) ?? new Map();
const same = (a, b) => a.length === b.length && a.every((name) => b.includes(name));
const wanted = new Map(readKept());  // id → names, or null for those that the method found

function readKept() {
  let kept = [];
  try { kept = JSON.parse(localStorage.getItem(facts.key)); } catch { /* not this browser */ }
  const isNames = (names) => Array.isArray(names) && names.every((n) => facts.classes.includes(n));
  const isKept = (each) => Array.isArray(each) && each.length === 2 && typeof each[0] === "string"
    && (each[1] === null || isNames(each[1]));
  return (Array.isArray(kept) ? kept : []).filter(isKept).filter(([id, names]) => {
    // What the run has read meanwhile is no change any more.
    const image = imageOfId.get(id);
    if (image) return !same(names ?? image.found, image.tags);
    return names === null ? ofSplit.has(id) : !(ofSplit.has(id) && same(names, ofSplit.get(id)));
  });
}

function keep() {
  try {
    if (wanted.size) localStorage.setItem(facts.key, JSON.stringify([...wanted]));
    else localStorage.removeItem(facts.key);
  } catch {
    byId("unkept").hidden = false;
  }
}

function tagsNow(image) {
  const names = wanted.get(image.ids[0]);
  return names === undefined ? image.tags : names ?? image.found;
}

function choose(card, names) {
  const image = imageOf.get(card);
  const sorted = facts.classes.filter((name) => names.includes(name));
  for (const id of image.ids) {
    if (same(sorted, image.tags)) wanted.delete(id);
    else wanted.set(id, same(sorted, image.found) ? null : sorted);
  }
  keep();
  showTags(card);
  showChanges();
}

function toggle(card, name) {
  const now = tagsNow(imageOf.get(card));
  choose(card, now.includes(name) ? now.filter((other) => other !== name) : [...now, name]);
}

/* A tag is a button that says whether it is on. */

function chip(card, name, ...content) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "chip";
  button.dataset.name = name;
  if (content.length) button.append(...content);
  else {
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = facts.colours[facts.classes.indexOf(name)];
    const word = document.createElement("bdi");
    word.textContent = name;
    button.append(swatch, word);
  }
  button.addEventListener("click", () => toggle(card, name));
  item.append(button);
  return item;
}

function press(chips, now) {
  for (const button of chips.querySelectorAll(".chip[data-name]")) {
    button.setAttribute("aria-pressed", now.includes(button.dataset.name));
  }
}

function showTags(card) {
  const image = imageOf.get(card), now = tagsNow(image), chips = card.querySelector(".chips");
  for (const name of now) {
    if (![...chips.querySelectorAll(".chip[data-name]")].some((b) => b.dataset.name === name)) {
      chips.insertBefore(chip(card, name), chips.querySelector(".none"));
    }
  }
  press(chips, now);
  chips.querySelector(".none").hidden = now.length > 0;
  card.classList.toggle("changed", wanted.has(image.ids[0]));
  card.classList.toggle("corrected", !same(now, image.found));
  if (current === card && viewer.open) showTagging(card);
}

function showTagging(card) {
  const image = imageOf.get(card), chips = byId("viewer-tags");
  byId("tagging").hidden = !image;
  if (!image) return;
  const now = tagsNow(image), scores = new Map(image.rows.map(([k, s]) => [facts.classes[k], s]));
  const focused = document.activeElement?.closest("#viewer-tags .chip")?.dataset.name;
  chips.replaceChildren(...[...new Set([...scores.keys(), ...now])].map((name, place) => {
    const item = chip(card, name);
    if (scores.get(name)) {
      const score = document.createElement("span");
      score.className = "score";
      score.textContent = ` ${scores.get(name)}`;
      item.firstChild.append(score);
    }
    if (place < 9) item.firstChild.setAttribute("aria-keyshortcuts", place + 1);
    return item;
  }));
  press(chips, now);
  [...chips.querySelectorAll(".chip")].find((b) => b.dataset.name === focused)?.focus();
  byId("as-found").disabled = same(now, image.found);
}

function addClass() {
  const field = byId("add"), typed = field.value.trim().toLowerCase();
  const name = facts.classes.find((known) => known.toLowerCase() === typed);
  byId("add-note").textContent = typed && !name ? `There is no class ${field.value.trim()}.` : "";
  if (!name) return;
  field.value = "";
  const now = tagsNow(imageOf.get(current));
  if (!now.includes(name)) choose(current, [...now, name]);
}

/* The bar of changes, and the file. */

function showChanges() {
  const images = wanted.size;
  let switched = 0;
  for (const [id, names] of wanted) {
    const image = imageOfId.get(id);
    const [before, after] = image ? [image.tags, names ?? image.found] : [[], [0]];
    switched += after.filter((n) => !before.includes(n)).length + before.filter((n) => !after.includes(n)).length;
  }
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
  byId("changes").hidden = !images;
  byId("changes-count").textContent = `${count(switched, "change")} in ${count(images, "image")}`;
  byId("saved").hidden = true;
}

function correctionsFile() {
  const lines = new Map([...earlier].map(([split, images]) => [split, new Map(images)]));
  const own = lines.get(facts.split) ?? new Map();
  for (const [id, names] of wanted) {
    if (names === null) own.delete(id);
    else own.set(id, names);
  }
  lines.set(facts.split, own);
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const joined = (names) => names.map((name) => name.replace(/[;\\]/g, "\\$&")).join(";");
  const several = facts.splits > 1;
  const rows = [several ? ["id", "split", "classes"] : ["id", "classes"]];
  for (const [split, images] of lines) {
    for (const [id, names] of images) rows.push([id, ...(several ? [split] : []), joined(names)]);
  }
  return rows.map((row) => `${row.map(cell).join(",")}\r\n`).join("");
}

byId("save").addEventListener("click", () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([correctionsFile()], { type: "text/csv" }));
  link.download = "corrections.csv";
  link.click();
  URL.revokeObjectURL(link.href);
  byId("saved").hidden = false;
});
byId("undo-all").addEventListener("click", () => {
  wanted.clear();
  keep();
  for (const card of imageOf.keys()) showTags(card);
  showChanges();
});
byId("as-found").addEventListener("click", () => choose(current, imageOf.get(current).found));
byId("add").addEventListener("change", addClass);
viewer.addEventListener("show", () => showTagging(current));
viewer.addEventListener("close", () => { byId("add").value = byId("add-note").textContent = ""; });
document.addEventListener("keydown", (event) => {
  if (!viewer.open || event.target.closest("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^[1-9]$/.test(event.key)) {
    byId("viewer-tags").querySelector(`[aria-keyshortcuts="${event.key}"]`)?.click();
  }
});
for (const [card, image] of imageOf) {
  const chips = card.querySelector(".chips");
  for (const item of chips.querySelectorAll(".chip")) {
    const button = chip(card, facts.classes[item.dataset.class], ...item.childNodes);
    button.firstChild.className = item.className;
    item.replaceWith(button);
  }
  const none = chips.querySelector(".none") ?? document.createElement("li");
  none.className = "muted none";
  none.textContent = "no tag";
  const add = document.createElement("button");
  add.type = "button";
  add.className = "chip add";
  add.textContent = "+";
  add.ariaLabel = `Add a class to ${image.ids[0]}`;
  add.addEventListener("click", () => { open(card); byId("add").focus(); });
  chips.append(none, document.createElement("li"));
  chips.lastChild.append(add);
  showTags(card);
}
showChanges();
if (viewer.open) showTagging(current);
