// Draws the part of a tree that is in sight: links as SVG below, nodes as HTML above, both reused while scrolling.

const SVG = "http://www.w3.org/2000/svg";
const OVERSCAN = 500; // pixels drawn around what is in sight, so that scrolling shows no holes

class Canvas {
  constructor(scroller, plane) {
    Object.assign(this, { scroller, plane, links: new Map(), nodes: new Map(), frame: 0 });
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("aria-hidden", "true");
    scroller.addEventListener("scroll", () => this.drawSoon());
    new ResizeObserver(() => this.drawSoon()).observe(scroller);
  }

  /** Show a layout anew. isGrown: it is one more state of the same tree, so what is drawn moves to its new place. */
  show(layout, look, isGrown = false) {
    Object.assign(this, { layout, look });
    if (isGrown) this.renew();
    else this.clear();
    this.plane.classList.toggle("dense", look.isDense);
    this.plane.style.width = `${layout.width}px`;
    this.plane.style.height = `${layout.height}px`;
    this.draw();
  }

  clear() {
    this.plane.style.width = this.plane.style.height = "";
    this.links.clear();
    this.nodes.clear();
    this.plane.replaceChildren(this.svg);
    this.svg.replaceChildren();
    this.svg.setAttribute("height", 0); // the old one would keep a smaller plane as tall as it was
  }

  /** Give what is drawn its new place and look. The elements stay, so that style sheets can let them move. */
  renew() {
    for (const [drawn, makeOne] of [[this.nodes, (box) => this.makeNode(box)], [this.links, (box) => this.makeLink(box)]]) {
      for (const [id, element] of drawn) {
        const box = this.layout.boxes.get(id);
        if (box) becomeLike(element, makeOne(box));
      }
    }
  }

  drawSoon() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  draw() {
    if (!this.layout) return;
    const sight = this.sight();
    Object.assign(this.svg.style, { left: `${sight.left}px`, top: `${sight.top}px` });
    const [width, height] = [sight.right - sight.left, sight.bottom - sight.top];
    for (const [name, value] of Object.entries({ width, height, viewBox: `${sight.left} ${sight.top} ${width} ${height}` })) {
      this.svg.setAttribute(name, value);
    }
    const boxes = [...this.layout.boxes.values()];
    this.update(this.nodes, boxes.filter((box) => this.isNodeIn(box, sight)), (box) => this.makeNode(box), this.plane);
    this.update(this.links, boxes.filter((box) => this.isLinkIn(box, sight)), (box) => this.makeLink(box), this.svg);
  }

  /** The drawn rectangle: what is in sight and some more, inside the plane. */
  sight() {
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.scroller;
    return {
      left: Math.max(0, scrollLeft - OVERSCAN), right: Math.min(this.layout.width, scrollLeft + clientWidth + OVERSCAN),
      top: Math.max(0, scrollTop - OVERSCAN), bottom: Math.min(this.layout.height, scrollTop + clientHeight + OVERSCAN),
    };
  }

  isNodeIn({ x, y }, sight) {
    return x < sight.right && x + this.layout.nodeWidth > sight.left && y > sight.top - 20 && y < sight.bottom + 20;
  }

  isLinkIn({ node, x, y }, sight) {
    if (!node.parent) return false;
    const above = this.layout.boxes.get(node.parent.id);
    return above.x < sight.right && x > sight.left && Math.min(y, above.y) < sight.bottom && Math.max(y, above.y) > sight.top;
  }

  /** Keep elements that stay, drop those that left, add those that came. */
  update(drawn, wanted, makeOne, parent) {
    const ids = new Set(wanted.map((box) => box.node.id));
    for (const [id, element] of drawn) {
      if (ids.has(id)) continue;
      element.remove();
      drawn.delete(id);
    }
    const added = document.createDocumentFragment();
    for (const box of wanted) {
      if (drawn.has(box.node.id)) continue;
      const element = makeOne(box);
      drawn.set(box.node.id, element);
      added.append(element);
    }
    parent.append(added);
  }

  /** A curve from the parent's right side; its width and colour are the child's flow. */
  makeLink({ node, x, y }) {
    const above = this.layout.boxes.get(node.parent.id);
    const start = above.x + this.widthOf(node.parent);
    const middle = Math.max(start + 12, (start + x) / 2);
    const curve = `M${start},${above.y}C${middle},${above.y} ${middle},${y} ${x},${y}`;
    const width = (this.look.isDense ? 0.8 : 1.6) + (this.look.isDense ? 2 : 6) * node.heat;
    const group = document.createElementNS(SVG, "g");
    if (node.onPath) group.append(makePath("halo", curve, width + 4));
    const path = makePath(node.isFork ? "link fork" : "link", curve, width);
    path.style.setProperty("--heat", `${100 * node.heat}%`);
    group.append(path);
    return group;
  }

  widthOf(node) {
    return node.parent ? this.layout.nodeWidth : this.layout.size.root;
  }

  makeNode({ node, x, y }) {
    const { isSelected, isHit, isUnfolded, isDense } = this.look;
    const element = make("div", nodeClass(node, isSelected(node), isHit(node), !isUnfolded(node)), [], { id: `node-${node.id}` });
    Object.assign(element.style, { left: `${x}px`, top: `${y - this.layout.size.nodeHeight / 2}px` });
    element.style.width = `${this.widthOf(node)}px`;
    element.style.setProperty("--heat", `${100 * node.heat}%`);
    element.setAttribute("role", "treeitem");
    element.setAttribute("aria-level", node.depth + 1);
    element.setAttribute("aria-selected", isSelected(node));
    element.setAttribute("aria-label", spokenLabel(node));
    if (node.children.length) element.setAttribute("aria-expanded", isUnfolded(node));
    if (!isDense) element.append(...nodeParts(node, isUnfolded(node)));
    return element;
  }

  /** The selection moved; nothing else did. */
  markSelected() {
    for (const [id, element] of this.nodes) {
      const isSelected = this.look.isSelected(this.layout.boxes.get(id).node);
      element.classList.toggle("selected", isSelected);
      element.setAttribute("aria-selected", isSelected);
    }
  }

  /** Bring a node into sight with some room around it. */
  reveal(node) {
    const box = this.layout.boxes.get(node.id);
    if (!box) return;
    const { scroller, layout } = this;
    const room = 60;
    if (box.y - room < scroller.scrollTop) scroller.scrollTop = box.y - room;
    if (box.y + room > scroller.scrollTop + scroller.clientHeight) scroller.scrollTop = box.y + room - scroller.clientHeight;
    const right = box.x + layout.nodeWidth + 24;
    if (right > scroller.scrollLeft + scroller.clientWidth) scroller.scrollLeft = right - scroller.clientWidth;
    if (box.x - 24 < scroller.scrollLeft) scroller.scrollLeft = box.x - 24;
  }
}

/** Take over the attributes and the content of another element of the same kind. */
function becomeLike(element, wanted) {
  for (const { name, value } of wanted.attributes) {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  }
  const isSameShape = element instanceof SVGElement && element.children.length === wanted.children.length;
  if (isSameShape) [...element.children].forEach((child, place) => becomeLike(child, wanted.children[place]));
  else element.replaceChildren(...wanted.childNodes);
}

const MARKS = { right: "✓", wrong: "✕", unfinished: "…", failed: "!" };

function makePath(className, curve, width) {
  const path = document.createElementNS(SVG, "path");
  for (const [name, value] of Object.entries({ class: className, d: curve, "stroke-width": width.toFixed(2) })) {
    path.setAttribute(name, value);
  }
  return path;
}

function nodeClass(node, isSelected, isHit, isFolded) {
  const is = {
    [node.outcome]: node.outcome !== "", selected: isSelected, hit: isHit, fork: node.isFork, "on-path": node.onPath,
    chosen: node.onPath && node.children.length === 0, folded: isFolded && node.children.length > 0,
  };
  return ["node", ...Object.keys(is).filter((name) => is[name])].join(" ");
}

/** What stands in a node: outcome, text, draws, flow, and how to unfold it. */
function nodeParts(node, isUnfolded) {
  const parts = [];
  if (node.outcome) parts.push(make("span", `mark ${node.outcome}`, MARKS[node.outcome]));
  parts.push(make("span", "text", label(node), { dir: "auto" }));
  if (node.draws > 1) parts.push(make("span", "times", `×${node.draws}`, { title: `drawn ${node.draws} times` }));
  if (node.isPivot) parts.push(make("span", "times", "fork", { title: "a fork leaves here" }));
  if (node.flow !== null) parts.push(make("span", "flow", flowText(node.flow)));
  if (node.parent && node.children.length) {
    parts.push(make("span", "more", isUnfolded ? MINUS : `+${node.stepsBelow}`, { title: isUnfolded ? "fold" : "unfold" }));
  }
  return parts;
}

function spokenLabel(node) {
  const words = [label(node), node.outcome];
  if (node.flow !== null) words.push(`flow ${flowText(node.flow)}`);
  if (node.draws > 1) words.push(`drawn ${node.draws} times`);
  if (node.isFork) words.push("fork");
  if (node.onPath) words.push("on the chosen path");
  return words.filter(Boolean).join(", ");
}
