// Where nodes stand: a tidy tree from left to right (d3-hierarchy), of those nodes only whose parents are unfolded.

const LOOSE = { row: 32, nodeHeight: 26, gap: 34, margin: 20, root: 108 };
const DENSE = { row: 12, nodeHeight: 9, gap: 45, margin: 20, root: 9 };
const LETTER_WIDTH = 7.5; // of the label's monospaced font
const MIN_WIDTH = 136; // of a node; a tree that needs narrower ones is scrolled instead
const SMALL = 160; // steps of a tree that is unfolded whole at first
const MAX_OPENED = 60; // of a larger one

/**
 * Positions of all nodes that are not hidden below a folded one.
 * room: width and height in sight. Nodes are made narrower where all columns then fit.
 */
function layOut(tree, unfolded, isDense, room) {
  const size = isDense ? DENSE : LOOSE;
  const hierarchy = d3.hierarchy(tree.root, (node) => (unfolded.has(node.id) ? node.children : null));
  const nodeWidth = isDense ? DENSE.nodeHeight : fittingWidth(tree, hierarchy.height, room.width);
  const columnAt = (depth) => size.margin + (depth && size.root + size.gap + (depth - 1) * (nodeWidth + size.gap));
  d3.tree().nodeSize([size.row, 1]).separation((a, b) => (a.parent === b.parent ? 1 : 1.25))(hierarchy);
  const placed = hierarchy.descendants();
  const rows = extent(placed, (one) => one.x);
  if (rows[1] - rows[0] > room.height) alignAtTop(hierarchy, size.row);
  const [highest] = extent(placed, (one) => one.x);
  const top = highest - size.margin - size.row / 2;
  const boxes = new Map();
  for (const one of placed) boxes.set(one.data.id, { node: one.data, x: columnAt(one.depth), y: one.x - top });
  const [, bottom] = extent([...boxes.values()], (box) => box.y);
  const [, right] = extent([...boxes.values()], (box) => box.x);
  return {
    boxes, size, nodeWidth, ordered: preOrder(tree.root, unfolded),
    width: right + nodeWidth + size.margin, height: bottom + size.row / 2 + size.margin,
  };
}

/** In a tree taller than the window a parent stands beside its first child, so that reading starts at the top left. */
function alignAtTop(hierarchy, row) {
  let rows = 0;
  hierarchy.eachBefore((one) => {
    if (!one.children) one.x = row * rows++;
  });
  for (const one of hierarchy.descendants().toReversed()) if (one.children) one.x = one.children[0].x;
}

/** Smallest and largest value; Math.min(...list) fails for lists of a hundred thousand. */
function extent(list, value) {
  let low = Infinity;
  let high = -Infinity;
  for (const one of list) {
    low = Math.min(low, value(one));
    high = Math.max(high, value(one));
  }
  return [low, high];
}

/** As wide as the longest label wants, or as narrow as it takes to have all columns in sight. */
function fittingWidth(tree, columns, width) {
  const letters = Math.min(26, Math.max(8, tree.longestLabel));
  const wanted = letters * LETTER_WIDTH + 92;
  const { margin, root, gap } = LOOSE;
  const fitting = (width - 2 * margin - root) / Math.max(1, columns) - gap;
  return Math.round(fitting >= MIN_WIDTH ? Math.min(wanted, fitting) : wanted);
}

/** Visible nodes from top to bottom, as the keys walk through them. */
function preOrder(root, unfolded) {
  const [ordered, stack] = [[], [root]];
  while (stack.length) {
    const node = stack.pop();
    ordered.push(node);
    if (unfolded.has(node.id)) stack.push(...node.children.toReversed());
  }
  return ordered;
}

/** What is unfolded at first: level by level as much as fits, and always the chosen path. */
function firstUnfolded(tree) {
  if (tree.nodes.length <= SMALL) return allUnfolded(tree);
  const unfolded = new Set([0]);
  let shown = tree.root.children.length;
  let level = tree.root.children;
  while (level.length) {
    const next = level.flatMap((node) => node.children);
    shown += next.length;
    if (shown > MAX_OPENED) break;
    for (const node of level) if (node.children.length) unfolded.add(node.id);
    level = next;
  }
  for (const node of pathTo(tree.chosen)) if (node.children.length) unfolded.add(node.id);
  return unfolded;
}

function allUnfolded(tree) {
  return new Set(tree.nodes.filter((node) => node.children.length).map((node) => node.id));
}
