// Puts the page together: asks for a search, lets its tree grow, and keeps those of this session.

const REDUCED = matchMedia("(prefers-reduced-motion: reduce)");
const BUSY = 3; // the picture may take one part in so many of the time, so that large trees leave room for the rest

const state = { offer: null, key: "", runs: [], shown: null, abort: null, example: 0, drawing: 0, restMs: 0 };
const pane = new TreePane({ scroller: byId("canvas"), plane: byId("tree"), details: byId("details"), hover: byId("hover") });

// --- the tree ---------------------------------------------------------------------------------------------------------

function treeOf(run) {
  const { columns } = run;
  const { kind, law, range } = state.offer.score;
  const flows = (columns.flows ?? []).slice(1).filter((flow) => flow !== null);
  const { scored } = state.offer.strategies.find(({ model }) => model === run.asked.model);
  const flowRange = (scored && range) || (flows.length ? extent(flows, (flow) => flow) : null);
  return buildTree(columns, { score: kind, law, flowRange, chosenBy: run.asked.model });
}

/** Show a run from its beginning, as when it is clicked in the list. */
function open(run) {
  state.shown = run;
  byId("tree").classList.toggle("growing", run.state === "running" && !REDUCED.matches);
  byId("intro").hidden = true;
  byId("tools").hidden = run.rows.length === 0;
  if (run.rows.length) {
    const tree = treeOf(run);
    fillLegend(byId("legend"), tree.scale);
    pane.show(tree);
    pane.select(tree.chosen ?? tree.root, { isSame: true });
  } else {
    pane.clear();
  }
  showAround();
  showRuns();
}

/** What stands around the tree of the run that is shown. */
function showAround() {
  const run = state.shown;
  showOutcome(run, state.offer);
  byId("to-chosen").disabled = !run.chosen;
  showTrouble(run.trouble);
}

/** The run has more to show. It is drawn at the next picture, and not before the last one has paid off. */
function grow(run) {
  if (run !== state.shown || state.drawing) return;
  state.drawing = setTimeout(() => requestAnimationFrame(() => {
    const start = performance.now();
    state.drawing = 0;
    drawGrown(run);
    state.restMs = (BUSY - 1) * (performance.now() - start);
  }), state.restMs);
}

function drawGrown(run) {
  if (run !== state.shown) return;
  if (!pane.tree && run.rows.length) {
    open(run);
    return;
  }
  if (run.rows.length) {
    const tree = treeOf(run);
    fillLegend(byId("legend"), tree.scale);
    pane.grow(tree);
    if (run.chosen) pane.goToChosen();
  }
  if (run.state !== "running") byId("tree").classList.remove("growing");
  showAround();
}

// --- searches ---------------------------------------------------------------------------------------------------------

async function start() {
  const problem = byId("problem-text").value.trim();
  if (state.abort || !state.offer || !byId("ask").reportValidity()) return;
  if (!problem) {
    showTrouble("Type a problem first, or take an example.");
    return;
  }
  const run = new Run(state.runs.length + 1, { problem, model: byId("strategy").value, budget: byId("budget").valueAsNumber || null });
  state.runs.unshift(run);
  state.abort = new AbortController();
  setRunning(true);
  say(`Searching for ${oneLine(problem)}.`);
  open(run);
  const { signal } = state.abort;
  try {
    await search(run.asked, state.key, signal, {
      onEvent: (event) => (run.take(event), grow(run)),
      onAnswer: (said) => run.finish(said),
      onUsage: (usage) => (run.usage = usage),
    });
  } catch (error) {
    if (!run.said) run.end(signal.aborted ? "stopped" : "failed", signal.aborted ? "" : error.message);
    if (error.status === 401) askForKey();
  }
  state.abort = null;
  setRunning(false);
  say(run.summary);
  clearTimeout(state.drawing);
  state.drawing = 0;
  drawGrown(run);
  showRuns();
}

function setRunning(isRunning) {
  byId("run").disabled = isRunning;
  byId("stop").disabled = !isRunning;
  document.body.classList.toggle("running", isRunning);
}

const stop = () => state.abort?.abort();

// --- around them ------------------------------------------------------------------------------------------------------

function showRuns() {
  byId("no-runs").hidden = state.runs.length > 0;
  byId("run-list").replaceChildren(...state.runs.map((run) => make("li", "", runButton(run))));
}

function runButton(run) {
  const { state: how, said, asked, number: place } = run;
  const outcome = { running: "…", stopped: "stopped", failed: "failed" }[how] ?? `${number(said.elapsed_s, 1)} s`;
  const verdict = said?.verdict;
  const mark = verdict ? [make("i", `mark ${verdict.correct ? "right" : "wrong"}`, verdict.correct ? MARKS.right : MARKS.wrong)] : [];
  const button = make("button", "past", [
    make("span", "past-problem", oneLine(asked.problem), { dir: "auto" }),
    make("span", "past-facts", [...mark, `${place}. ${asked.model}`, make("span", "", outcome)]),
  ], { type: "button", onclick: () => open(run) });
  if (run === state.shown) button.setAttribute("aria-current", "true");
  return button;
}

function showTrouble(words) {
  byId("trouble-line").hidden = words === "";
  byId("trouble-line").textContent = words;
}

const say = (words) => (byId("said").textContent = words);

/** Ask what the server offers; with a wrong key it says so, and asks for another. */
async function meetServer() {
  try {
    state.offer = await (await askServer("ui/offer", state.key)).json();
  } catch (error) {
    showTrouble(error.status === 401 && !state.key ? "This server wants an API key. It stays in this page's memory only." : error.message);
    if (error.status === 401) askForKey();
    return;
  }
  const { offer } = state;
  showTrouble("");
  byId("serving").textContent = [...new Set([offer.base_model, offer.task])].filter(Boolean).join(" · ");
  byId("strategy").replaceChildren(...offer.strategies.map(({ model }) => make("option", "", model, { value: model })));
  byId("strategy").value = offer.strategy;
  byId("budget").value = offer.budget_tokens;
  byId("budget").max = offer.max_budget_tokens;
  byId("problem-text").placeholder = offer.examples[0] ?? "";
  byId("example").disabled = offer.examples.length === 0;
  describeStrategy();
  byId("problem-text").focus();
}

function askForKey() {
  byId("key-form").hidden = false;
  byId("key").focus();
}

function describeStrategy() {
  const chosen = state.offer.strategies.find(({ model }) => model === byId("strategy").value);
  byId("strategy-about").textContent = chosen.about;
}

function takeExample() {
  const { examples } = state.offer;
  byId("problem-text").value = examples[state.example++ % examples.length];
  byId("problem-text").focus();
}

function listen() {
  const clicks = {
    stop, example: takeExample, expand: () => pane.unfoldAll(), collapse: () => pane.foldAll(),
    dense: () => pane.toggleDense(byId("dense")), "to-chosen": () => pane.goToChosen(),
  };
  for (const [id, action] of Object.entries(clicks)) byId(id).addEventListener("click", action);
  byId("ask").addEventListener("submit", (event) => (event.preventDefault(), start()));
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    state.key = byId("key").value.trim();
    meetServer();
  });
  byId("strategy").addEventListener("change", describeStrategy);
  byId("outcome").addEventListener("click", (event) => {
    const button = event.target.closest(".answer");
    if (button) pane.goTo(pane.tree.nodes[Number(button.dataset.node)]);
  });
  byId("problem-text").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    start();
  });
  byId("tree").addEventListener("keydown", (event) => {
    const action = pane.tree && !event.ctrlKey && !event.metaKey && !event.altKey ? pane.actionOf(event.key) : undefined;
    if (!action) return;
    action();
    event.preventDefault();
  });
  addEventListener("keydown", (event) => event.key === "Escape" && stop());
}

listen();
meetServer();
