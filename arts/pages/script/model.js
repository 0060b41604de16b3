// A tree from its columns: nodes that know their children, and what is found by walking. Knows no drawing.

const STOP_NAMES = { "-": "", e: "finished", s: "goes on", l: "cut off by a limit", x: "the proposer failed" };

/**
 * Nodes of a tree, the root first; parents come before their children.
 * scale: what the scores are (`score`), their lowest and highest (`flowRange`; null where nothing is scored), the law
 * of the residuals (`law`), and who chose the end (`chosenBy`).
 */
function buildTree(columns, scale) {
  const nodes = columns.parents.map((parent, id) => readNode(columns, parent, id));
  for (const node of nodes.slice(1)) {
    node.parent = nodes[node.parentId];
    node.depth = node.parent.depth + 1;
    node.parent.children.push(node);
  }
  countBelow(nodes);
  markPaths(nodes, columns);
  for (const node of nodes) node.heat = heatOf(node, scale.flowRange);
  const longestLabel = nodes.reduce((longest, node) => Math.max(longest, wholeText(node).length), 0);
  return { nodes, root: nodes[0], columns, scale, chosen: nodes[columns.chosen] ?? null, longestLabel };
}

function readNode(columns, parentId, id) {
  const [correct, answer, reason] = columns.verdicts[id] ?? [null, null, ""];
  const stop = columns.stops[id];
  return {
    id, parentId, parent: null, depth: 0, children: [], stepsBelow: 0, ends: 0, rightEnds: 0,
    onPath: false, isFork: false, isPivot: false, heat: 0,
    text: columns.texts[id], stop, correct, answer, reason,
    draws: columns.draws[id], prior: columns.priors[id], share: columns.shares?.[id] ?? null,
    flow: columns.flows?.[id] ?? null, residual: columns.residuals?.[id] ?? null,
    outcome: correct === null ? { l: "unfinished", x: "failed" }[stop] ?? "" : correct ? "right" : "wrong",
  };
}

/** How many steps, ends and right ends hang below each node; an end counts as often as it was drawn. */
function countBelow(nodes) {
  for (const node of nodes.toReversed()) {
    if (node.children.length === 0) {
      node.ends = node.draws;
      node.rightEnds = node.outcome === "right" ? node.draws : 0;
    }
    if (!node.parent) continue;
    node.parent.stepsBelow += node.stepsBelow + 1;
    node.parent.ends += node.ends;
    node.parent.rightEnds += node.rightEnds;
  }
}

/** Which nodes lie on the chosen path, and which on no trunk: those are forks. */
function markPaths(nodes, columns) {
  for (const node of nodes.slice(1)) node.isFork = columns.trunks.length > 0;
  for (const end of columns.trunks) for (let node = nodes[end]; node.isFork; node = node.parent) node.isFork = false;
  for (const node of nodes) if (node.isFork && !node.parent.isFork) node.parent.isPivot = true;
  if (columns.chosen !== null) for (const node of pathTo(nodes[columns.chosen])) node.onPath = true;
}

/** What stands on a node in one line. */
const label = (node) => (node.parent ? oneLine(wholeText(node)) : "problem");

/** The text of a step; rows of an evaluation know its answer only. */
const wholeText = (node) => node.text.trim() || (node.answer ?? "(empty)");

/** From the first step down to a node, without the root. */
function pathTo(node) {
  const path = [];
  for (let one = node; one?.parent; one = one.parent) path.push(one);
  return path.reverse();
}

/** Where a node stands between the lowest and the highest flow, 0 to 1; by right ends where none is scored. */
function heatOf(node, flowRange) {
  if (!flowRange) return node.share ?? (node.ends ? node.rightEnds / node.ends : 0);
  if (node.flow === null) return 0;
  const [low, high] = flowRange;
  return high > low ? Math.min(1, Math.max(0, (node.flow - low) / (high - low))) : 1;
}
