// A tree on a page: what is unfolded, what is selected, and how clicks, the pointer and the arrow keys move through it.

class TreePane {
  /**
   * parts: the elements `scroller`, `plane`, `details` and `hover`.
   * isHit: nodes to mark; onSelect: told of every selected node, with the options of `select`.
   */
  constructor(parts, { isHit = () => false, onSelect = () => {} } = {}) {
    Object.assign(this, parts, { isHit, onSelect, tree: null, selected: null, unfolded: new Set(), isDense: false });
    this.canvas = new Canvas(this.scroller, this.plane);
    this.listen();
  }

  /** Another tree, from its beginning. */
  show(tree) {
    Object.assign(this, { tree, unfolded: firstUnfolded(tree), selected: tree.root });
    this.redraw();
    this.scroller.scrollTo(0, 0);
  }

  clear() {
    Object.assign(this, { tree: null, selected: null });
    this.canvas.clear();
    this.details.replaceChildren();
  }

  /** The same tree, grown: the selection stays, and so does what was folded. */
  grow(tree) {
    const before = this.tree.nodes;
    for (const { id, children } of tree.nodes) {
      if (children.length && !before[id]?.children.length) this.unfolded.add(id);
    }
    const old = this.selected;
    Object.assign(this, { tree, selected: tree.nodes[old.id] });
    this.redraw(true);
    const { flow, draws, ends, outcome } = this.selected;
    if (flow !== old.flow || draws !== old.draws || ends !== old.ends || outcome !== old.outcome) this.showSelected();
  }

  redraw(isGrown = false) {
    const { clientWidth: width, clientHeight: height } = this.scroller;
    this.layout = layOut(this.tree, this.unfolded, this.isDense, { width, height });
    this.canvas.show(this.layout, {
      isDense: this.isDense, isHit: this.isHit,
      isSelected: (node) => node === this.selected, isUnfolded: (node) => this.unfolded.has(node.id),
    }, isGrown);
  }

  /**
   * Select a node, unfolding what hides it.
   * isSame: the picture stays as it is but for the selection, so that keys are quick in large trees.
   */
  select(node, options = {}) {
    const isHidden = pathTo(node.parent).some((above) => !this.unfolded.has(above.id)) || !this.unfolded.has(0);
    for (let above = node.parent; above; above = above.parent) this.unfolded.add(above.id);
    this.selected = node;
    if (options.isSame && !isHidden) this.canvas.markSelected();
    else this.redraw();
    this.canvas.reveal(node);
    this.canvas.draw();
    this.hover.hidden = true;
    this.showSelected();
    this.onSelect(node, options);
  }

  showSelected() {
    this.plane.setAttribute("aria-activedescendant", `node-${this.selected.id}`);
    showDetails(this.details, this.tree, this.selected, (node) => this.goTo(node));
  }

  goTo(node) {
    this.select(node, { isSame: true });
  }

  /** The chosen end where the whole tree is in sight, else where reading starts. */
  firstSelected() {
    const { width, height } = this.layout;
    const { clientWidth, clientHeight } = this.scroller;
    return this.tree.chosen && width <= clientWidth && height <= clientHeight ? this.tree.chosen : this.tree.root;
  }

  fold(node, isUnfolded) {
    if (node.children.length === 0) return;
    if (isUnfolded) this.unfolded.add(node.id);
    else this.unfolded.delete(node.id);
    this.select(node);
  }

  toggle(node = this.selected) {
    this.fold(node, !this.unfolded.has(node.id));
  }

  unfoldAll() {
    this.unfolded = allUnfolded(this.tree);
    this.select(this.selected);
  }

  foldAll() {
    this.unfolded = new Set([0]);
    this.select(this.tree.root);
  }

  toggleDense(button) {
    this.isDense = !this.isDense;
    button.setAttribute("aria-pressed", this.isDense);
    this.select(this.selected);
  }

  goToChosen() {
    if (this.tree.chosen) this.goTo(this.tree.chosen);
  }

  /** Go to the next node of a kind, round the end of the tree. */
  goToNext(isWanted, direction) {
    const found = preOrder(this.tree.root, allUnfolded(this.tree)).filter(isWanted);
    if (found.length === 0) return;
    const here = found.indexOf(this.selected);
    const start = here < 0 && direction < 0 ? 0 : here;
    this.goTo(found[(start + direction + found.length) % found.length]);
  }

  walk(distance) {
    const { ordered } = this.layout;
    const position = ordered.indexOf(this.selected) + distance;
    this.goTo(ordered[Math.min(ordered.length - 1, Math.max(0, position))]);
  }

  inward() {
    const node = this.selected;
    if (node.children.length === 0) return;
    if (this.unfolded.has(node.id)) this.goTo(node.children[0]);
    else this.fold(node, true);
  }

  outward() {
    const node = this.selected;
    if (node.children.length && this.unfolded.has(node.id)) this.fold(node, false);
    else if (node.parent) this.goTo(node.parent);
  }

  /** What the arrow keys do in any tree of the system; undefined for other keys. */
  actionOf(key) {
    const actions = {
      ArrowUp: () => this.walk(-1), ArrowDown: () => this.walk(1), ArrowRight: () => this.inward(), ArrowLeft: () => this.outward(),
      Home: () => this.walk(-Infinity), End: () => this.walk(Infinity), Enter: () => this.toggle(), " ": () => this.toggle(),
    };
    return actions[key];
  }

  listen() {
    const nodeOf = (event) => {
      const element = event.target.closest?.(".node");
      return element ? this.tree.nodes[Number(element.id.slice(5))] : null;
    };
    this.plane.addEventListener("click", (event) => {
      const node = nodeOf(event);
      if (!node) return;
      this.plane.focus({ preventScroll: true });
      if (event.target.closest(".more")) this.toggle(node);
      else this.goTo(node);
    });
    this.plane.addEventListener("dblclick", (event) => nodeOf(event) && this.toggle(nodeOf(event)));
    this.plane.addEventListener("pointermove", (event) => {
      const node = nodeOf(event);
      if (node && event.pointerType !== "touch") showHover(this.hover, this.tree, node, event.clientX, event.clientY);
      else this.hover.hidden = true;
    });
    this.plane.addEventListener("pointerleave", () => (this.hover.hidden = true));
  }
}

/** How to read the picture: the scale of the colours, and the marks of ends. */
function fillLegend(legend, { score, flowRange }) {
  const [low, high] = flowRange ? flowRange.map(flowText) : ["0%", "100%"];
  const name = flowRange ? { log_flow: "flow F", log_value: "chance", log_strength: "strength" }[score] : "share right below";
  const ramp = [make("b", "", name), make("span", "", low), make("i", "ramp"), make("span", "", high)];
  legend.replaceChildren(
    make("span", "", ramp),
    ...["right", "wrong", "unfinished"].map((kind) => make("span", "", [make("i", `mark ${kind}`, MARKS[kind]), kind])),
  );
}
