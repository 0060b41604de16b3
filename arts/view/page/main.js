// Puts the parts together: what is open, what is selected, and what happens on clicks, keys and addresses.

const state = { place: -1, group: "", order: "", query: "", places: [], opening: 0 };
const SCALE = { score: INDEX.score, flowRange: INDEX.flow_range, law: INDEX.law, chosenBy: INDEX.chosen_by };
const isHit = (node) => state.query !== "" && node.text.toLowerCase().includes(state.query.toLowerCase());
const parts = { scroller: byId("canvas"), plane: byId("tree"), details: byId("details"), hover: byId("hover") };
const pane = new TreePane(parts, { isHit, onSelect: afterSelection });
const list = new ProblemList(byId("list"), byId("list-plane"), (place) => openProblem(place));

// --- the tree ---------------------------------------------------------------------------------------------------------

/** Read a problem's tree and show it; of two that are opened at once the later one stays. */
async function openProblem(place, nodeId = null, { replace = false } = {}) {
  const turn = ++state.opening;
  const columns = await readColumns(place);
  if (turn !== state.opening) return;
  const tree = buildTree(columns, SCALE);
  state.place = place;
  showProblem(tree);
  pane.show(tree);
  list.mark(place);
  const wanted = tree.nodes[nodeId] ?? (state.query ? tree.nodes.find(isHit) : undefined);
  pane.select(wanted ?? pane.firstSelected(), { isNew: true, replace, isSame: true });
  performance.mark("tree-drawn");
}

function showProblem(tree) {
  const { place } = state;
  showText(byId("prompt"), tree.columns.prompt);
  const [right, draws] = [INDEX.right[place], INDEX.draws[place]];
  const facts = [`${right} of ${plural(draws, "draw")} right`, plural(INDEX.steps[place], "step")];
  if (tree.columns.tokens) facts.push(plural(tree.columns.tokens, "token"));
  const badges = facts.map((fact) => make("span", "", fact));
  if (tree.chosen) {
    const isRight = tree.chosen.outcome === "right";
    badges.push(make("span", `badge ${isRight ? "right" : "wrong"}`, `${isRight ? "✓" : "✕"} chosen by ${INDEX.chosen_by}`));
  }
  if (INDEX.notes[place]) badges.push(make("span", "badge", INDEX.notes[place]));
  byId("facts").replaceChildren(...badges);
  byId("to-chosen").disabled = !tree.chosen;
  showPlace();
}

function showPlace() {
  const position = state.places.indexOf(state.place);
  byId("place").textContent = `${position < 0 ? "–" : position + 1} of ${state.places.length}`;
}

/** The panel says where the page comes from, and the address where we are. isNew: a step back leads here again. */
function afterSelection(node, { isNew = false, replace = true }) {
  byId("details").append(...aboutPage());
  const route = routeOf(state.place, node, state.group);
  if (route !== location.hash) history[isNew && !replace ? "pushState" : "replaceState"](null, "", route);
}

function aboutPage() {
  if (INDEX.about.length === 0) return [];
  const pairs = INDEX.about.flatMap(([name, value]) => [make("dt", "", name), make("dd", "", make("code", "", value))]);
  return [make("h3", "", "This page"), make("dl", "about", pairs)];
}

const actions = {
  step(direction) {
    const { places, place } = state;
    const position = places.indexOf(place);
    const next = places[position < 0 ? 0 : position + direction];
    if (next !== undefined) openProblem(next);
  },
  goToChosen: () => pane.goToChosen(),
  nextRight: () => pane.goToNext((node) => node.outcome === "right", 1),
  nextHit: (direction) => pane.goToNext(isHit, direction),
  unfoldAll: () => pane.unfoldAll(),
  foldAll: () => pane.foldAll(),
  toggleDense: () => pane.toggleDense(byId("dense")),
  search: () => byId("search").focus(),
  help: () => byId("help").showModal(),
};

// --- the list ---------------------------------------------------------------------------------------------------------

/** Fill the list for group, order and searched text; texts of trees that are not read yet arrive one by one. */
async function fillList({ openFirst = false } = {}) {
  const { group, order, query } = state;
  const members = groupMembers(group);
  const isCurrent = () => state.group === group && state.order === order && state.query === query;
  if (!query) {
    showPlaces(inOrder(members, order), openFirst);
    return;
  }
  const found = [];
  let drawnAt = performance.now();
  await findText(members, query, isCurrent, (place) => {
    found.push(place);
    if (found.length > 1 && performance.now() - drawnAt < 200) return;
    drawnAt = performance.now();
    showPlaces(inOrder(found, order), openFirst && found.length === 1, " so far");
  });
  if (isCurrent()) showPlaces(inOrder(found, order), false);
}

function showPlaces(places, openFirst, note = "") {
  state.places = places;
  byId("found").textContent = `${places.length.toLocaleString("en")} of ${plural(INDEX.keys.length, NOUN)}${note}`;
  list.show(places, state.place);
  if (openFirst && places.length && !places.includes(state.place)) openProblem(places[0]);
  else if (pane.tree) showPlace();
}

function applyRoute() {
  const route = readRoute();
  showTrouble(route.isUnknown ? "The address names a problem that is not on this page." : "");
  state.group = INDEX.groups.some((group) => group.name === route.group) ? route.group : "";
  byId("group").value = state.group;
  fillList();
  const place = route.place ?? state.places[0] ?? 0;
  if (place !== state.place) openProblem(place, route.node, { replace: true });
  else if (pane.tree && (route.node ?? 0) !== pane.selected.id) pane.select(pane.tree.nodes[route.node ?? 0] ?? pane.tree.root);
}

function showTrouble(words) {
  byId("trouble").hidden = words === "";
  byId("trouble").textContent = words;
}

// --- wiring -----------------------------------------------------------------------------------------------------------

function listenToControls() {
  const buttons = {
    previous: () => actions.step(-1), next: () => actions.step(1), expand: actions.unfoldAll, collapse: actions.foldAll,
    dense: actions.toggleDense, "to-chosen": actions.goToChosen, "help-button": actions.help,
  };
  for (const [id, action] of Object.entries(buttons)) byId(id).addEventListener("click", action);
  byId("group").addEventListener("change", (event) => change({ group: event.target.value }));
  byId("order").addEventListener("change", (event) => change({ order: event.target.value }));
  let timer = 0;
  byId("search").addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(() => change({ query: event.target.value.trim() }), 180);
  });
  byId("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") pane.goToNext(isHit, event.shiftKey ? -1 : 1);
    if (event.key === "Escape") byId("tree").focus();
  });
  byId("list").addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    event.preventDefault();
    actions.step(event.key === "ArrowDown" ? 1 : -1);
  });
}

/** Another group, order or searched text: a new list, and its first problem where the open one is not in it. */
function change(values) {
  Object.assign(state, values);
  fillList({ openFirst: true });
  if (pane.tree) pane.select(pane.selected);
}

function listenToKeys() {
  addEventListener("keydown", (event) => {
    const isTyping = event.target.matches?.("input, select, textarea") || byId("help").open;
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !pane.tree) return;
    const isInTree = !event.target.closest?.("button, #list, #details, #prompt");
    const action = actionOf(event.key, actions) ?? (isInTree ? pane.actionOf(event.key) : undefined);
    if (!action) return;
    action();
    event.preventDefault();
  });
}

function start() {
  document.title = INDEX.title;
  byId("page-title").textContent = INDEX.title;
  fillGroups(byId("group"));
  fillHelp(byId("help"));
  fillLegend(byId("legend"), SCALE);
  listenToControls();
  listenToKeys();
  addEventListener("unhandledrejection", () => {
    showTrouble("A part of this page cannot be read: the file may be cut off, or the browser older than 2023.");
  });
  addEventListener("popstate", applyRoute);
  addEventListener("hashchange", applyRoute);
  applyRoute();
  byId("tree").focus({ preventScroll: true });
}

start();
