// The chosen answer beside the majority's, and both bills. They are filled while a search runs, too.

function showOutcome(run, offer) {
  byId("outcome").hidden = false;
  refill(byId("chosen-card"), chosenParts(run, offer));
  refill(byId("majority-card"), majorityParts(run, offer));
  refill(byId("bills"), billParts(run));
}

/** Another content, where it is another one: a button that is replaced while it is pressed does nothing. */
function refill(element, parts) {
  const wanted = element.cloneNode(false);
  wanted.append(...parts);
  if (!wanted.isEqualNode(element)) element.replaceChildren(...wanted.childNodes);
}

function chosenParts(run, offer) {
  const title = make("h2", "", `Chosen by ${run.asked.model}`);
  if (!run.chosen) {
    const words = { running: "Searching …", stopped: "Stopped before anything was chosen.", failed: "Nothing was chosen." };
    return [title, make("p", `waiting ${run.state}`, words[run.state] ?? "")];
  }
  const { confidence, confidence_is, verdict, finished, stopped } = run.said;
  const parts = [title, answerButton(run.chosen)];
  if (confidence !== null) parts.push(share(confidence, `${surely(confidence)} ${confidence_is === "value" ? "confidence" : "of the votes"}`));
  parts.push(checkerLine(verdict, offer), make("p", "hint", finished ? WHY_STOPPED[stopped] : "No draw was finished; this is the first, cut off."));
  return parts;
}

/** A chance in percent that is not rounded up to certainty. */
const surely = (chance) => (chance > 0.99 && chance < 1 ? `${number(100 * Math.min(chance, 0.999), 1)}%` : percent(chance));

function majorityParts(run, offer) {
  const { votes } = run;
  const total = votes.reduce((sum, one) => sum + one.count, 0);
  const title = make("h2", "", total ? `Majority of ${plural(total, "vote")}` : "Majority");
  if (!total) return [title, make("p", `waiting ${run.state}`, run.state === "running" ? "No finished solution yet." : "No finished solution.")];
  const [first, second] = votes;
  const row = run.rows[first.id];
  const next = second && `Next: ${plural(second.count, "vote")} for ${oneLine(second.answer)}.`;
  const others = total > 1 && first.count === 1 ? "No two say the same; this one was first." : next ?? (total > 1 ? "All say the same." : "");
  return [
    title, answerButton(row), share(first.count / total, `${first.count} of ${plural(total, "vote")}`, "votes"),
    checkerLine(row.verdict, offer, run.chosen && first.answer === run.chosen.answer), make("p", "hint", others),
  ];
}

/** An answer that leads to its node. */
function answerButton(row) {
  const button = make("button", "answer", answerOf(row), { type: "button", title: "Show its path" });
  button.dataset.node = row.id;
  return button;
}

/** A bar with words. */
function share(part, words, kind = "") {
  const bar = make("i");
  bar.style.width = `${100 * Math.min(1, Math.max(0, part))}%`;
  return make("p", "share", [make("span", `track ${kind}`, bar), make("span", "", words)]);
}

function checkerLine(verdict, offer, isSame = false) {
  const badges = isSame ? [make("span", "badge", "same as chosen")] : [];
  if (verdict?.correct) badges.unshift(make("span", "badge right", "✓ the checker agrees"));
  if (verdict && !verdict.correct) badges.unshift(make("span", "badge wrong", "✕ the checker does not agree"), make("span", "hint", oneLine(verdict.reason)));
  if (!offer.checks) badges.unshift(make("span", "badge", "nobody checks this"));
  return make("p", "badges", badges);
}

/** Both bills on one scale, so that their lengths compare; the proposer's against its budget. */
function billParts(run) {
  const { event, usage, asked, said } = run;
  const generated = usage?.completion_tokens ?? event?.generated_tokens ?? 0;
  const verified = usage?.verifier_tokens ?? event?.verifier_tokens ?? 0;
  const full = Math.max(1, asked.budget ?? 0, generated, verified);
  const count = (tokens) => tokens.toLocaleString("en");
  const line = (name, kind, tokens, words) => [make("dt", "", name), make("dd", "", share(tokens / full, words, kind))];
  const budget = asked.budget ? ` of ${count(asked.budget)}` : "";
  const facts = [plural(said?.draws ?? event?.draws ?? 0, "draw"), plural(run.votes.length, "different answer")];
  if (usage) facts.push(`${count(usage.prompt_tokens)} prompt tokens`);
  facts.push(`${number(said?.elapsed_s ?? event?.elapsed_s ?? 0, 1)} s`);
  return [
    make("h2", "", "Tokens"),
    make("dl", "", [...line("Proposer", "", generated, `${count(generated)}${budget}`), ...line("Verifier", "verified", verified, count(verified))]),
    make("p", "hint facts", facts.map((fact) => make("span", "", fact))),
  ];
}
