// The keyboard: arrows walk through a tree as in any tree of the system, letters go to places.

const KEYS = [
  ["↑ ↓", "step above, step below"],
  ["→ ←", "unfold or go to the first child; fold or go to the parent"],
  ["Enter", "fold or unfold"],
  ["j k", "next, previous problem"],
  ["h", "the chosen end"],
  ["r", "next right end"],
  ["n p", "next, previous step that holds the searched text"],
  ["e c o", "unfold all, fold, overview"],
  ["/", "search"],
  ["?", "this page"],
];

const SIGNS = [
  ["✓ ✕", "an end that the checker calls right, wrong"],
  ["… !", "an end that was cut off, that the proposer failed at"],
  ["fork", "a fork leaves here; forks are dashed and do not count as draws"],
  ["×3", "drawn three times"],
  ["+12", "twelve steps are folded below"],
];

function fillHelp(dialog) {
  const list = (pairs, tag) => make("dl", "", pairs.flatMap(([sign, meaning]) => [make("dt", "", signs(sign, tag)), make("dd", "", meaning)]));
  const signs = (text, tag) => text.split(" ").flatMap((one) => [make(tag, "", one), " "]);
  dialog.replaceChildren(
    make("h2", "", "Keys", { id: "help-title" }), list(KEYS, "kbd"), make("h2", "", "Signs"), list(SIGNS, "span"),
    make("form", "", make("button", "", "Close"), { method: "dialog" }),
  );
}

/** What a letter does; undefined for other keys. */
function actionOf(key, actions) {
  const letters = {
    j: () => actions.step(1), k: () => actions.step(-1), h: actions.goToChosen, r: actions.nextRight,
    n: () => actions.nextHit(1), p: () => actions.nextHit(-1), e: actions.unfoldAll, c: actions.foldAll,
    o: actions.toggleDense, "/": actions.search, "?": actions.help,
  };
  return letters[key];
}
