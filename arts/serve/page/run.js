// One search as the page knows it: what was asked, the nodes that came, and what became of it. Knows no drawing.

const STOP_SIGNS = { eos: "e", stop: "s", length: "l", error: "x" };
const WHY_STOPPED = {
  complete: "The strategy came to its end.", settled: "The verifier is sure enough of an answer.",
  budget: "The budget is spent.", deadline: "The time is up; this is the best so far.",
  closed: "The server is shutting down; this is the best so far.", failed: "The model server failed; this is the best so far.",
};

class Run {
  /** asked: `problem`, `model`, `budget` (null for none). */
  constructor(number, asked) {
    Object.assign(this, { number, asked, rows: [], event: null, said: null, usage: null, trouble: "", state: "running" });
  }

  /** An event of the stream: new nodes, and changes of those told before. */
  take(event) {
    if (event.draws !== undefined) this.event = event;
    for (const row of event.nodes ?? []) this.rows[row.id] = row;
    for (const change of event.changes ?? []) Object.assign(this.rows[change.id], change);
  }

  /** The answer's own field: from now on the whole tree is known, and which end was chosen. */
  finish(said) {
    Object.assign(this, { said, state: "done", rows: said.tree.nodes });
  }

  end(state, trouble = "") {
    Object.assign(this, { state, trouble });
  }

  get chosen() {
    return this.said ? this.rows[this.said.tree.answer] : null;
  }

  /** Votes of every answer as the server counts them: most first, of equals the one that was drawn first. */
  get votes() {
    const votes = new Map();
    for (const { id, answer, draws } of this.rows) {
      if (answer === null) continue;
      const known = votes.get(answer) ?? { id, answer, count: 0 };
      votes.set(answer, { ...known, count: known.count + draws });
    }
    return [...votes.values()].sort((a, b) => b.count - a.count);
  }

  /** The nodes in the form that `buildTree` reads. */
  get columns() {
    const { rows } = this;
    const isScored = rows.some((row) => row.log_flow !== null);
    const ends = rows.filter((row) => row.answer !== null || row.verdict !== null);
    return {
      prompt: this.asked.problem, chosen: this.said?.tree.answer ?? null, trunks: [],
      parents: rows.map((row) => row.parent), texts: rows.map((row) => row.text),
      stops: rows.map((row) => STOP_SIGNS[row.stop] ?? "-").join(""), draws: rows.map((row) => row.draws),
      priors: rows.map((row) => row.log_prior), flows: isScored ? rows.map((row) => row.log_flow) : undefined,
      verdicts: Object.fromEntries(ends.map((row) => [row.id, [row.verdict?.correct ?? null, row.answer, row.verdict?.reason ?? ""]])),
    };
  }

  /** One sentence on how it ended, for those who do not see the page. */
  get summary() {
    if (this.state === "failed") return this.trouble;
    if (this.state === "stopped") return "Stopped. Nothing was chosen.";
    if (this.state === "running") return "";
    const { confidence, verdict } = this.said;
    const words = [`Chosen: ${answerOf(this.chosen)}.`];
    if (confidence !== null) words.push(`Confidence ${surely(confidence)}.`);
    if (verdict) words.push(verdict.correct ? "The checker agrees." : `The checker does not agree: ${verdict.reason}.`);
    const [first] = this.votes;
    if (first) words.push(first.answer === this.chosen.answer ? "The majority says the same." : `The majority says ${oneLine(first.answer)}.`);
    return words.join(" ");
  }
}

/** What a finished solution says, in one line. */
const answerOf = (row) => oneLine(row.answer ?? row.text) || "(empty)";
