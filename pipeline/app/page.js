/* The page of tools/app.py: requests after a pause in typing, and what was typed is kept when the page is reloaded. */

const TYPED = 350, CHOSEN = 100;  // milliseconds until a changed name, or another choice, is tried

function press(id, pause) {
  const button = document.getElementById(id);
  if (!button) return;  // nobody has opened its tab
  clearTimeout(button.waiting);
  button.waiting = setTimeout(() => {
    button.isMissed = !button.offsetParent;  // another tab is open
    if (!button.isMissed) button.click();
  }, pause);
}

function catchUp(id) {
  const button = document.getElementById(id);
  if (!button?.isMissed) return;
  button.isMissed = false;
  button.click();
}

// Values are kept by the command line (keptAs): another app on this port has other ones.
function restore(...given) {
  try {
    const kept = JSON.parse(localStorage.getItem(keptAs));
    return kept?.length === given.length ? kept : given;
  } catch { return given; }
}

function keep(...values) {
  try { localStorage.setItem(keptAs, JSON.stringify(values)); } catch { /* the browser keeps nothing */ }
}

// A run takes the names of its command: without one, it cannot begin.
let isRunning = false;

function allowRun() {
  document.getElementById("run").disabled = isRunning || !document.querySelector("#command textarea").value;
}

// The run that the page has started.
async function watchRun() {
  const shown = document.getElementById("run_status");
  const answer = await fetch("report/state").catch(() => null);
  if (!shown || !answer?.ok) return;
  const { running, line, code, log } = await answer.json();
  isRunning = running;
  allowRun();
  if (running) {
    const stop = document.createElement("button");
    [stop.type, stop.className, stop.textContent] = ["button", "chip", "Stop"];
    stop.onclick = () => fetch("report/stop", { method: "POST" });
    const isEnding = /^(error|ended): /.test(line);  // its process ends a little later
    shown.replaceChildren(`${line || "The run starts …"} `, ...isEnding ? [] : [stop]);
    setTimeout(watchRun, 1000);
  } else if (code === 0) {
    const link = document.createElement("a");
    [link.href, link.textContent] = ["report", "Open its report"];
    shown.replaceChildren("The run has finished. ", link);
  } else if (code === 130) shown.textContent = "The run is stopped. Run goes on where it was.";
  else if (code < 0) shown.textContent = `The run was killed (${log}). Run goes on where it was.`;
  else if (code !== null) shown.textContent = `The run has ended: ${line} (the log is ${log})`;
}

// Browsers that do not know HEIC give its files no type, and Gradio takes images alone.
for (const kind of ["drop", "change"]) addEventListener(kind, (event) => {
  const given = event.dataTransfer ?? event.target, isUntyped = (file) => !file.type && /\.hei[cf]$/i.test(file.name);
  if (![...given.files ?? []].some(isUntyped)) return;
  const typed = new DataTransfer();
  for (const file of given.files) typed.items.add(isUntyped(file) ? new File([file], file.name, { type: "image/heic" }) : file);
  if (kind === "change") { given.files = typed.files; return; }
  event.preventDefault();
  event.stopImmediatePropagation();
  event.target.dispatchEvent(new DragEvent("drop", { bubbles: true, cancelable: true, dataTransfer: typed }));
}, true);
