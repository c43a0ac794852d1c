
/* Corrections of tags. They stay in this browser until a run has read the file that "Save" writes.
   An image that was looked at has a line in that file, also if its tags are right as they are. */

const imageOf = new Map(cards.filter((card) => card.dataset.image).map((card) => {
  const { ids, tags, found, truth, rows } = JSON.parse(card.dataset.image);
  const names = (indices) => indices?.map((index) => facts.classes[index]);
  const scores = new Map(rows.map(([index, score]) => [facts.classes[index], score]));
  return [card, { ids, scores, tags: names(tags), found: names(found), truth: names(truth) }];
}));
const imageOfId = new Map([...imageOf.values()].flatMap((image) => image.ids.map((id) => [id, image])));
const earlier = new Map();  // split → id → names
for (const [split, id, names] of facts.earlier) {
  earlier.set(split, (earlier.get(split) ?? new Map()).set(id, names));
}
const ofSplit = earlier.get(facts.split) ?? new Map();
const differing = (a, b) => [...a.filter((name) => !b.includes(name)), ...b.filter((name) => !a.includes(name))];
const same = (a, b) => !differing(a, b).length;
const isLine = (id, names) => (names === null ? !ofSplit.has(id) : ofSplit.has(id) && same(names, ofSplit.get(id)));
const wanted = new Map(readKept());  // id → names, or null for no line: the tags that the method found
const past = [];  // what was wanted before each step
const signs = { right: "✓", wrong: "✗", missed: "○" };
const menu = byId("menu"), field = byId("add"), goal = byId("goal");

function readKept(kept = recall(facts.key)) {
  const isNames = (names) => Array.isArray(names) && names.every((n) => facts.classes.includes(n));
  const isKept = (each) => Array.isArray(each) && each.length === 2 && typeof each[0] === "string"
    && (each[1] === null || isNames(each[1]));
  // What the run has read meanwhile is no change any more.
  return (Array.isArray(kept) ? kept : []).filter(isKept).filter(([id, names]) => !isLine(id, names));
}

const tagsNow = ({ ids: [id], tags, found }) => (wanted.has(id) ? wanted.get(id) ?? found : tags);
const isLookedAt = ({ ids: [id] }) => (wanted.has(id) ? wanted.get(id) !== null : ofSplit.has(id));

function tagsOf(card) {
  if (imageOf.has(card)) return tagsNow(imageOf.get(card));
  return [...card.querySelectorAll(".chip:not(.missed) bdi")].map((tag) => tag.textContent);
}

function classesOf(card) {
  if (classIn.value === "tags" && imageOf.has(card)) return tagsOf(card);
  return (labelled.get(card)[classIn.value] ?? []).map((index) => facts.classes[index]);
}

/* A step gives cards their lines in the file: names, null for none, or undefined for the present one. */

function take(steps) {
  past.push([...wanted]);
  for (const [card, names] of steps) {
    for (const id of imageOf.get(card).ids) {
      if (names === undefined || isLine(id, names)) wanted.delete(id);
      else wanted.set(id, names);
    }
  }
  show(steps.map(([card]) => card));
}

function goBackTo(state) {
  wanted.clear();
  for (const [id, names] of state) wanted.set(id, names);
  show([...imageOf.keys()]);
}

function show(changed) {
  remember(facts.key, [...wanted]);
  changed.forEach(showTags);
  showChanges();
  update();
}

function toggled(card, name) {
  const image = imageOf.get(card), now = tagsNow(image);
  const names = facts.classes.filter((each) => now.includes(each) !== (each === name));
  return [card, same(names, image.tags) ? undefined : same(names, image.found) ? null : names];
}

function press(event) {
  const button = event.target.closest("button.chip"), card = button?.closest(".card") ?? current;
  if (!button) return;
  if (button.matches(".add")) return openMenu(button);
  if (menu.matches(":popover-open")) menu.hidePopover();
  const image = imageOf.get(card), { name } = button.dataset;
  take([name ? toggled(card, name) : [card, isLookedAt(image) ? null : tagsNow(image)]]);
}

/* A tag is a button that says whether it is on. */

function chipOf(name) {
  const item = byId("chip").content.firstElementChild.cloneNode(true), button = item.firstElementChild;
  button.dataset.name = name;
  button.querySelector(".swatch").style.background = facts.colours[facts.classes.indexOf(name)];
  button.querySelector("bdi").textContent = name;
  return item;
}

function showChips(chips, image, names) {
  const now = tagsNow(image), focused = document.activeElement;
  const key = (button) => button.dataset.name ?? button.className;
  const items = names.map((name, place) => {
    const item = chipOf(name), button = item.firstElementChild, on = now.includes(name);
    button.setAttribute("aria-pressed", on);
    button.querySelector(".score").textContent = image.scores.get(name) ?? "";
    const there = image.truth?.includes(name);
    const verdict = on && image.truth ? (there ? "right" : "wrong") : !on && there ? "missed" : "";
    button.className = `chip ${verdict}`;
    button.querySelector(".sign").textContent = signs[verdict] ?? "";
    button.querySelector(".hidden").textContent = verdict && `, ${verdict}`;
    if (chips.id && place < 9) button.setAttribute("aria-keyshortcuts", place + 1);
    return item;
  });
  const ends = byId("chip-ends").content.cloneNode(true);
  const [none, add, seen] = [".none", ".add", ".seen"].map((kind) => ends.querySelector(kind));
  none.hidden = now.length > 0;
  add.ariaLabel = `Add a class to ${image.ids[0]}`;
  seen.querySelector(".hidden").textContent = ` ${image.ids[0]}`;
  seen.setAttribute("aria-pressed", isLookedAt(image));
  seen.disabled = !same(now, image.found);
  ends.querySelector(".as-found").disabled = same(now, image.found);
  const had = chips.contains(focused) && key(focused);
  chips.replaceChildren(...items, ends);
  if (had) ([...chips.querySelectorAll("button")].find((button) => key(button) === had) ?? add).focus();
}

function showTags(card) {
  const image = imageOf.get(card), { truth, tags, found, scores, ids } = image, now = tagsNow(image);
  const names = [...new Set([...scores.keys(), ...now])];
  showChips(card.querySelector(".chips"), image, names.filter((name) => [now, tags, truth ?? []].some((n) => n.includes(name))));
  const marks = { "changed": wanted.has(ids[0]), "corrected": !same(now, found), "without-tags": !now.length };
  marks["looked-at"] = isLookedAt(image) && !marks.corrected;
  marks["with-wrong"] = now.some((name) => truth && !truth.includes(name));
  marks["with-missed"] = (truth ?? []).some((name) => !now.includes(name));
  for (const [name, is] of Object.entries(marks)) card.classList.toggle(name, is);
  if (card === current) showChips(byId("viewer-tags"), image, names);
}

/* The menu of classes, at the chip that opens it. */

function openMenu(button) {
  button.after(menu);
  menu.ariaLabel = button.ariaLabel;
  field.value = "";
  offer();
  menu.showPopover();
  const { left, top, bottom } = button.getBoundingClientRect(), page = document.documentElement;
  const fits = bottom + menu.offsetHeight <= page.clientHeight;
  menu.style.left = `${scrollX + Math.max(0, Math.min(left, page.clientWidth - menu.offsetWidth))}px`;
  menu.style.top = `${scrollY + (fits ? bottom : Math.max(0, top - menu.offsetHeight))}px`;
  // The keyboard of a phone would hide the classes.
  if (matchMedia("(hover: hover)").matches) field.focus();
}

function offer() {
  const typed = field.value.trim().toLowerCase(), now = tagsOf(menu.closest(".card") ?? current);
  const at = (name) => name.toLowerCase().indexOf(typed);
  const names = facts.classes.filter((name) => !now.includes(name) && at(name) >= 0);
  if (typed) names.sort((a, b) => at(a) - at(b) || a.length - b.length);
  byId("offers").replaceChildren(...names.map(chipOf));
  byId("add-note").textContent = names.length ? "" : `There is no other class ${field.value.trim()}.`;
}

field.addEventListener("input", offer);
field.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault(); // or it would press the chip, which has the focus then
  menu.querySelector("button")?.click();
});

/* A class is taken from all images that are shown. */

const holders = () => shown.filter((card) => imageOf.has(card) && tagsOf(card).includes(chosenClass.value));

function offerTaking() {
  const count = holders().length, all = count === 1 ? "the image" : `all ${count} images`;
  byId("take").hidden = !count;
  byId("take").textContent = `Remove the tag ${chosenClass.value} from ${
    count < shown.length ? `${count} of the ${shown.length} images` : all} shown`;
}

byId("take").addEventListener("click", () => {
  take(holders().map((card) => toggled(card, chosenClass.value)));
  chosenClass.focus();
});

/* The bar of changes, and the file. */

function showChanges() {
  let switched = 0, changed = 0, right = 0, back = 0;
  for (const [id, names] of wanted) {
    const image = imageOfId.get(id), tags = image ? differing(image.tags, names ?? image.found).length : 1;
    switched += tags;
    if (tags) changed += 1;
    else if (names) right += 1;
    else back += 1;
  }
  const count = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;
  byId("changes").hidden = !wanted.size;
  byId("changes-count").textContent = [
    changed && `${count(switched, "change")} in ${count(changed, "image")}`,
    right && `${count(right, "image")} confirmed`,
    back && `${count(back, "mark")} taken back`,
  ].filter(Boolean).join(", ");
  byId("looked-at").textContent = linesNow().size;
  byId("undo").disabled = !past.length;
  byId("saved").hidden = true;
  byId("copy").textContent = "Copy";
}

const linesNow = () => new Map([...ofSplit, ...wanted].filter(([id]) => wanted.get(id) !== null));

function correctionsFile() {
  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const joined = (names) => names.map((name) => name.replace(/[;\\]/g, "\\$&")).join(";");
  const several = facts.splits > 1;
  const rows = [several ? ["id", "split", "classes"] : ["id", "classes"]];
  for (const [split, images] of new Map(earlier).set(facts.split, linesNow())) {
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
byId("copy").addEventListener("click", async () => {
  // It stays selected where a page may not write to the clipboard.
  getSelection().selectAllChildren(byId("command"));
  await navigator.clipboard.writeText(byId("command").textContent);
  byId("copy").textContent = "Copied";
});
byId("close-changes").addEventListener("click", () => { byId("changes").hidden = true; });
byId("undo").addEventListener("click", () => goBackTo(past.pop()));
byId("undo-all").addEventListener("click", () => { past.push([...wanted]); goBackTo([]); });
goal.value = recall("wanted number of images") ?? 20;
goal.addEventListener("change", () => remember("wanted number of images", goal.valueAsNumber || null));
list.addEventListener("click", press);
byId("viewer-tags").addEventListener("click", press);
document.addEventListener("keydown", (event) => {
  if (!viewer.open || event.target.closest("#menu") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (!/^[0-9+]$/.test(event.key)) return;
  event.preventDefault();
  byId("viewer-tags").querySelector(`[aria-keyshortcuts="${event.key}"]`)?.click();
});

for (const card of cards) card.classList.add(...card.dataset.marks.split(" ").filter(Boolean));
[...imageOf.keys()].forEach(showTags);
showChanges();
chooseOffered();
update();
if (/^#image-\d+$/.test(location.hash)) open(document.querySelector(location.hash));
