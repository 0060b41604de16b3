// The selected step in full, and the card under the pointer.

const MAX_PATH = 100; // steps of the path that are listed, the last ones

/** Names and values of a node, as pairs; what is not known is left out. */
function valuesOf(tree, node) {
  const values = [];
  const add = (name, value) => values.push([name, value]);
  if (node.flow !== null) {
    if (tree.scale.score !== "log_value") add("flow F", flowText(node.flow));
    else add("chance to end right", percent(Math.exp(node.flow)));
    add("log F", number(node.flow, 3));
  }
  if (node.prior !== null) {
    const law = tree.columns.law === "sampling" ? "log-prior (as sampled)" : "log-prior";
    add(law, `${number(node.prior, 3)}  (${percent(Math.exp(node.prior))})`);
  }
  if (node.parent) add("drawn", plural(node.draws, "time"));
  if (node.children.length) {
    add("ends below", `${node.rightEnds} of ${node.ends} right`);
    if (node.share !== null) add("share right, by draws", percent(node.share));
  }
  if (node.residual !== null) add(`residual (${tree.scale.law} law)`, `${number(node.residual, 3)} nats`);
  if (node.stop !== "-" && node.stop !== "s") add("ended", STOP_NAMES[node.stop]);
  if (node.answer !== null) add("answer", shortened(node.answer));
  if (node.reason) add("checker", shortened(node.reason));
  return values;
}

const shortened = (text) => showText(make("span"), text, 300);

function outcomeMark(node) {
  return node.outcome ? [make("span", `mark ${node.outcome}`, MARKS[node.outcome])] : [];
}

/** Fill the side panel. choose: what to do with a step of the path that is clicked. */
function showDetails(panel, tree, node, choose) {
  const path = pathTo(node);
  const title = node.parent ? `Step ${node.depth}${node.outcome ? `, ${node.outcome}` : ""}` : "The problem";
  const tags = [node.isFork && "fork", node === tree.chosen && `chosen by ${tree.scale.chosenBy}`].filter(Boolean);
  const values = valuesOf(tree, node).flatMap(([name, value]) => [make("dt", "", name), make("dd", "", value)]);
  panel.replaceChildren(
    make("h2", "", [...outcomeMark(node), title, ...tags.map((tag) => make("span", "badge", tag))]),
    showText(make("div", "step-text"), node.parent ? wholeText(node) : tree.columns.prompt),
    make("dl", "values", values),
  );
  if (path.length) {
    const steps = path.slice(-MAX_PATH).map((step) => make("li", "", pathButton(step, node, choose)));
    if (path.length > MAX_PATH) steps.unshift(make("li", "line", `… ${plural(path.length - MAX_PATH, "step")} before`));
    panel.append(make("h3", "", "The solution so far"), make("ol", "path", steps));
  }
  panel.scrollTop = 0;
}

function pathButton(step, current, choose) {
  const parts = [showText(make("span", "step-text"), wholeText(step), 600)];
  if (step.flow !== null) parts.push(make("span", "flow", flowText(step.flow)));
  const button = make("button", "", parts, { type: "button", onclick: () => choose(step) });
  if (step === current) button.setAttribute("aria-current", "step");
  button.style.setProperty("--heat", `${100 * step.heat}%`);
  return button;
}

/** The card beside the pointer; it stays inside the window. */
function showHover(card, tree, node, x, y) {
  const text = showText(make("div", "step-text"), node.parent ? wholeText(node) : tree.columns.prompt, 900);
  const line = valuesOf(tree, node).filter(([name]) => /^(flow F|chance|log-prior|drawn|ends below|residual)/.test(name));
  const facts = line.map(([name, value]) => `${name} ${value}`).join("  ·  ");
  card.replaceChildren(text, make("div", "line", facts));
  card.hidden = false;
  const { width, height } = card.getBoundingClientRect();
  card.style.left = `${Math.max(8, Math.min(x + 16, innerWidth - width - 8))}px`;
  card.style.top = `${y + 18 + height > innerHeight ? Math.max(8, y - height - 12) : y + 18}px`;
}
