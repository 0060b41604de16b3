// The list of problems: which are in it, in what order, and the rows that are in sight.

const ROW_HEIGHT = 50;
const NOUN = INDEX.notes.length ? "tree" : "problem"; // with notes, several trees may be of one problem

const groupMembers = (name) => INDEX.groups.find((group) => group.name === name)?.members ?? [...INDEX.keys.keys()];

const ORDERS = {
  residual: (place) => -(INDEX.residuals[place] ?? -1),
  right: (place) => INDEX.right[place],
  steps: (place) => -INDEX.steps[place],
};

/** Places in the chosen order; equal ones stay as they are in the file. */
function inOrder(places, order) {
  const key = ORDERS[order] ?? ((place) => place);
  return [...places].sort((a, b) => key(a) - key(b) || a - b);
}

/** The names of the groups with their sizes, for the picker; empty groups cannot be chosen. */
function fillGroups(picker) {
  const option = (value, title, count) =>
    make("option", "", `${title} (${count.toLocaleString("en")})`, { value, disabled: count === 0 });
  const all = `All ${NOUN}s`;
  const groups = INDEX.groups.map((group) => option(group.name, group.title, group.members.length));
  picker.replaceChildren(option("", all, INDEX.keys.length), ...groups);
}

class ProblemList {
  constructor(scroller, plane, open) {
    Object.assign(this, { scroller, plane, places: [], current: -1 });
    scroller.addEventListener("scroll", () => this.draw());
    plane.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) open(Number(row.dataset.place));
    });
    new ResizeObserver(() => this.draw()).observe(scroller);
  }

  /** Another list, from its beginning. */
  show(places, current) {
    Object.assign(this, { places, current });
    this.plane.style.height = `${places.length * ROW_HEIGHT}px`;
    this.scroller.scrollTop = 0;
    this.draw();
  }

  /** Mark the open problem and bring its row into sight. */
  mark(current) {
    this.current = current;
    this.scroller.setAttribute("aria-activedescendant", `row-${current}`);
    this.reveal();
    this.draw();
  }

  reveal() {
    const top = this.places.indexOf(this.current) * ROW_HEIGHT;
    if (top < 0) return;
    const { scrollTop, clientHeight } = this.scroller;
    if (top < scrollTop) this.scroller.scrollTop = top;
    if (top + ROW_HEIGHT > scrollTop + clientHeight) this.scroller.scrollTop = top + ROW_HEIGHT - clientHeight;
  }

  draw() {
    const first = Math.max(0, Math.floor(this.scroller.scrollTop / ROW_HEIGHT) - 4);
    const last = Math.ceil((this.scroller.scrollTop + this.scroller.clientHeight) / ROW_HEIGHT) + 4;
    this.plane.replaceChildren(...this.places.slice(first, last).map((place, i) => this.row(place, first + i)));
  }

  row(place, position) {
    const [right, draws] = [INDEX.right[place], INDEX.draws[place]];
    const bar = make("i");
    bar.style.width = `${draws ? (100 * right) / draws : 0}%`;
    const note = INDEX.notes[place];
    const facts = [make("span", "meter", bar), note ? `${right}/${draws}` : `${right} of ${draws} right`];
    if (note) facts.push(make("span", "row-note", note));
    const row = make("div", "row", [
      make("span", "row-prompt", oneLine(INDEX.prompts[place]) || "(empty)", { dir: "auto" }),
      make("span", "row-facts", facts),
    ]);
    row.id = `row-${place}`;
    row.dataset.place = place;
    row.style.top = `${position * ROW_HEIGHT}px`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", place === this.current);
    row.setAttribute("aria-setsize", this.places.length);
    row.setAttribute("aria-posinset", position + 1);
    return row;
  }
}
