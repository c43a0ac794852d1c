/* The report as the app serves it: Save writes a file beside the results, and Run starts the next run. */

const served = JSON.parse(byId("served").textContent), runState = document.createElement("p");
const runButton = document.createElement("button"), stopButton = document.createElement("button");
let savedFile = null, wasRunning = false, isStopped = false;

async function ask(path, body) {
  const asked = fetch(`/report/${path}`, body === undefined ? {} : { method: "POST", body });
  const answer = await asked.catch(() => {
    throw new Error("The app has ended: start it again, and open its new address. What you change here is not kept.");
  });
  const found = await answer.json().catch(() => ({ error: "The app failed: see its terminal." }));
  if (!answer.ok) throw new Error(found.error);
  return found;
}

function told(text) {
  runState.textContent = text;
  showChanges();
}

const telling = (act) => async () => { try { await act(); } catch (error) { told(error.message); } };

// The server keeps what is not saved, whatever its port. It knows by the version whether another window has changed it.
// What it has not accepted stays in this window, and is added to what another one has changed when the page is reloaded.
let keeping = Promise.resolve(), accepted = new Map();
const unsent = "corrections that the server has not accepted";

function differences(now) {
  const differs = (id) => JSON.stringify(accepted.get(id)) !== JSON.stringify(now.get(id));
  return [...new Set([...accepted.keys(), ...now.keys()])].filter(differs)
    .map((id) => (now.has(id) ? [id, now.get(id)] : [id]));
}

function takeUnsent() {
  const { key, changes } = JSON.parse(sessionStorage.getItem(unsent)) ?? {};
  if (key !== facts.key) return;
  for (const [id, ...names] of changes) {
    wanted.delete(id);
    for (const [, each] of readKept(names.map((each) => [id, each]))) wanted.set(id, each);
  }
  remember(facts.key, [...wanted]);
}

window.remember = (name, value) => {
  if (name !== facts.key) return;
  savedFile = null;
  keeping = keeping.then(telling(async () => {
    const changes = differences(new Map(value));
    sessionStorage.setItem(unsent, JSON.stringify({ key: name, changes }));
    const kept = { key: name, wanted: value, version: served.version };
    served.version = (await ask("kept", JSON.stringify(kept))).version;
    accepted = new Map(value);
    sessionStorage.removeItem(unsent);
  }));
};

async function save() {
  savedFile = (await ask("save", correctionsFile())).file;
  told(`Saved as ${savedFile}.`);
  runButton.focus();
}

async function start() {
  if (!savedFile) await save();
  isStopped = false;
  await ask("run", savedFile);
  watch();
}

async function stop() {
  await ask("stop", "");
  isStopped = true;
}

async function watch() {
  const { running, line, code, compared, log } = await ask("state");
  runButton.disabled = running;
  stopButton.hidden = !running || /^(error|ended): /.test(line); // Python ends seconds after its last line
  if (isStopped && !running && code !== 0) told("The run is stopped. Run goes on where it was.");
  else if (code < 0) told(`The run was killed (${log}). Run goes on where it was.`);
  else if (running || wasRunning || code !== null) told((line || "The run starts …") + (running || !code ? "" : ` (${log})`));
  if (running) { wasRunning = true; setTimeout(telling(watch), 1000); return; }
  if (code === 0) {
    const links = [["/report", "the new report"]];
    if (compared) links.push(["/report/comparison", "the comparison with the run before"]);
    runState.replaceChildren("The run has finished: ", ...links.flatMap(([address, words], place) => {
      const link = document.createElement("a");
      [link.href, link.textContent] = [address, words];
      return place ? [", ", link] : [link];
    }));
  }
}

[runButton.textContent, stopButton.textContent] = ["Run", "Stop"];
[runButton.type, stopButton.type, runState.role] = ["button", "button", "status"];
stopButton.hidden = true;
runButton.addEventListener("click", telling(start));
stopButton.addEventListener("click", telling(stop));
byId("changes").append(runState, runButton, stopButton);
const showBar = showChanges;
window.showChanges = () => { // the bar also tells of a run
  showBar();
  runButton.hidden = byId("changes").hidden;
  byId("changes").hidden &&= !runState.textContent;
};
byId("save").addEventListener("click", (event) => {
  event.stopImmediatePropagation();
  telling(save)();
}, true);
for (const [id, names] of served.key === facts.key ? readKept(served.wanted) : []) {
  if (imageOfId.has(id)) wanted.set(id, names);
}
accepted = new Map(wanted);
takeUnsent();
[...imageOf.keys()].forEach(showTags);
showChanges();
update();
telling(watch)();
