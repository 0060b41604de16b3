// Puts the parts together: what is open, what is selected, and what happens on clicks, keys and addresses.

const state = {
  place: -1, tree: null, selected: null, unfolded: new Set(), isDense: false,
  group: "", order: "", query: "", places: [], opening: 0,
};
const canvas = new Canvas(byId("canvas"), byId("tree"));
const list = new ProblemList(byId("list"), byId("list-plane"), (place) => openProblem(place));

const isHit = (node) => state.query !== "" && node.text.toLowerCase().includes(state.query.toLowerCase());

// --- the tree ---------------------------------------------------------------------------------------------------------

/** Read a problem's tree and show it; of two that are opened at once the later one stays. */
async function openProblem(place, nodeId = null, { replace = false } = {}) {
  const turn = ++state.opening;
  const columns = await readColumns(place);
  if (turn !== state.opening) return;
  const tree = buildTree(columns);
  Object.assign(state, { place, tree, unfolded: firstUnfolded(tree), selected: tree.root });
  showProblem();
  redraw();
  list.mark(place);
  const wanted = tree.nodes[nodeId] ?? (state.query ? tree.nodes.find(isHit) : undefined);
  byId("canvas").scrollTo(0, 0);
  select(wanted ?? firstSelected(tree), { isNew: true, replace, isSame: true });
  performance.mark("tree-drawn");
}

/** The chosen end where the whole tree is in sight, else where reading starts. */
function firstSelected(tree) {
  const { width, height } = state.layout;
  const { clientWidth, clientHeight } = byId("canvas");
  return tree.chosen && width <= clientWidth && height <= clientHeight ? tree.chosen : tree.root;
}

function showProblem() {
  const { place, tree } = state;
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

function redraw() {
  const { clientWidth: width, clientHeight: height } = byId("canvas");
  state.layout = layOut(state.tree, state.unfolded, state.isDense, { width, height });
  canvas.show(state.layout, {
    isDense: state.isDense, isHit,
    isSelected: (node) => node === state.selected, isUnfolded: (node) => state.unfolded.has(node.id),
  });
}

/**
 * Select a node, unfolding what hides it.
 * isSame: the picture stays as it is but for the selection, so that keys are quick in large trees.
 */
function select(node, { isNew = false, replace = true, isSame = false } = {}) {
  const isHidden = pathTo(node.parent).some((above) => !state.unfolded.has(above.id)) || !state.unfolded.has(0);
  for (let above = node.parent; above; above = above.parent) state.unfolded.add(above.id);
  state.selected = node;
  if (isSame && !isHidden) canvas.markSelected();
  else redraw();
  canvas.reveal(node);
  canvas.draw();
  byId("tree").setAttribute("aria-activedescendant", `node-${node.id}`);
  byId("hover").hidden = true;
  showDetails(byId("details"), state.tree, node, goTo);
  const route = routeOf(state.place, node, state.group);
  if (route !== location.hash) history[isNew && !replace ? "pushState" : "replaceState"](null, "", route);
}

const goTo = (node) => select(node, { isSame: true });

function fold(node, isUnfolded) {
  if (node.children.length === 0) return;
  if (isUnfolded) state.unfolded.add(node.id);
  else state.unfolded.delete(node.id);
  select(node);
}

const toggle = (node) => fold(node, !state.unfolded.has(node.id));

/** Go to the next node of a kind, round the end of the tree. */
function goToNext(isWanted, direction) {
  const found = preOrder(state.tree.root, allUnfolded(state.tree)).filter(isWanted);
  if (found.length === 0) return;
  const here = found.indexOf(state.selected);
  const start = here < 0 && direction < 0 ? 0 : here;
  goTo(found[(start + direction + found.length) % found.length]);
}

const actions = {
  step(direction) {
    const { places, place } = state;
    const position = places.indexOf(place);
    const next = places[position < 0 ? 0 : position + direction];
    if (next !== undefined) openProblem(next);
  },
  walk(distance) {
    const { ordered } = state.layout;
    const position = ordered.indexOf(state.selected) + distance;
    goTo(ordered[Math.min(ordered.length - 1, Math.max(0, position))]);
  },
  inward() {
    const node = state.selected;
    if (node.children.length === 0) return;
    if (state.unfolded.has(node.id)) goTo(node.children[0]);
    else fold(node, true);
  },
  outward() {
    const node = state.selected;
    if (node.children.length && state.unfolded.has(node.id)) fold(node, false);
    else if (node.parent) goTo(node.parent);
  },
  toggle: () => toggle(state.selected),
  goToChosen: () => state.tree.chosen && goTo(state.tree.chosen),
  nextRight: () => goToNext((node) => node.outcome === "right", 1),
  nextHit: (direction) => goToNext(isHit, direction),
  unfoldAll() {
    state.unfolded = allUnfolded(state.tree);
    select(state.selected);
  },
  foldAll() {
    state.unfolded = new Set([0]);
    select(state.tree.root);
  },
  toggleDense() {
    state.isDense = !state.isDense;
    byId("dense").setAttribute("aria-pressed", state.isDense);
    select(state.selected);
  },
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
  else if (state.tree) showPlace();
}

function applyRoute() {
  const route = readRoute();
  showTrouble(route.isUnknown ? "The address names a problem that is not on this page." : "");
  state.group = INDEX.groups.some((group) => group.name === route.group) ? route.group : "";
  byId("group").value = state.group;
  fillList();
  const place = route.place ?? state.places[0] ?? 0;
  if (place !== state.place) openProblem(place, route.node, { replace: true });
  else if (state.tree && (route.node ?? 0) !== state.selected.id) select(state.tree.nodes[route.node ?? 0] ?? state.tree.root);
}

function showTrouble(words) {
  byId("trouble").hidden = words === "";
  byId("trouble").textContent = words;
}

// --- wiring -----------------------------------------------------------------------------------------------------------

function listenToTree() {
  const tree = byId("tree");
  const nodeOf = (event) => {
    const element = event.target.closest?.(".node");
    return element ? state.tree.nodes[Number(element.id.slice(5))] : null;
  };
  tree.addEventListener("click", (event) => {
    const node = nodeOf(event);
    if (!node) return;
    tree.focus({ preventScroll: true });
    if (event.target.closest(".more")) toggle(node);
    else goTo(node);
  });
  tree.addEventListener("dblclick", (event) => nodeOf(event) && toggle(nodeOf(event)));
  tree.addEventListener("pointermove", (event) => {
    const node = nodeOf(event);
    if (node && event.pointerType !== "touch") showHover(byId("hover"), state.tree, node, event.clientX, event.clientY);
    else byId("hover").hidden = true;
  });
  tree.addEventListener("pointerleave", () => (byId("hover").hidden = true));
}

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
    if (event.key === "Enter") goToNext(isHit, event.shiftKey ? -1 : 1);
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
  if (state.tree) select(state.selected);
}

function listenToKeys() {
  addEventListener("keydown", (event) => {
    const isTyping = event.target.matches?.("input, select, textarea") || byId("help").open;
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || !state.tree) return;
    const isInTree = !event.target.closest?.("button, #list, #details, #prompt");
    if (pressKey(event, actions, isInTree)) event.preventDefault();
  });
}

function showLegend() {
  const isScored = INDEX.flow_range !== null;
  const [low, high] = isScored ? INDEX.flow_range.map(flowText) : ["0%", "100%"];
  const name = isScored ? { log_flow: "flow F", log_value: "chance", log_strength: "strength" }[INDEX.score] : "share right below";
  const ramp = [make("b", "", name), make("span", "", low), make("i", "ramp"), make("span", "", high)];
  byId("legend").append(
    make("span", "", ramp),
    ...["right", "wrong", "unfinished"].map((kind) => make("span", "", [make("i", `mark ${kind}`, MARKS[kind]), kind])),
  );
}

function start() {
  document.title = INDEX.title;
  byId("page-title").textContent = INDEX.title;
  fillGroups(byId("group"));
  fillHelp(byId("help"));
  showLegend();
  listenToTree();
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
