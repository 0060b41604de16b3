// Text that a model wrote: put on the page as text only, with the signs made visible that would hide or reorder it, and
// with its LaTeX set as MathML where the page carries Temml (it does when its trees hold LaTeX).

// Controls, zero-width and bidirectional signs, byte order marks, halves of surrogate pairs.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/gu;
const LATEX = /\$\$([^]+?)\$\$|\\\[([^]+?)\\\]|\\\(([^]+?)\\\)|\$(?!\s)((?:\\.|[^$\\\n])+?)(?<!\s)\$(?!\d)|(\\boxed\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\})/g;
const MAX_CHARACTERS = 20_000; // shown before "show all": a megabyte in one line takes a browser seconds to break
const MAX_LATEX = 2_000; // characters of one formula
const TEMML_OPTIONS = { trust: false, maxExpand: 200, maxSize: [20, 50], throwOnError: true };

/** Append text in which hidden signs stand as their code points. */
function appendVisible(parent, text) {
  let from = 0;
  for (const match of text.matchAll(HIDDEN)) {
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    parent.append(text.slice(from, match.index), make("span", "sign", `U+${code}`, { title: "a sign that is not seen" }));
    from = match.index + match[0].length;
  }
  parent.append(text.slice(from));
}

/** Append one formula; what Temml does not understand stays as it was written. */
function appendFormula(parent, source, latex, isDisplay) {
  const box = make("span", isDisplay ? "display" : "");
  try {
    if (latex.length > MAX_LATEX || latex.search(HIDDEN) >= 0) throw new Error("shown as written");
    temml.render(latex, box, { ...TEMML_OPTIONS, displayMode: isDisplay });
    parent.append(box);
  } catch {
    appendVisible(parent, source);
  }
}

/** Fill an element with a step's text, or the beginning of it. */
function showText(element, text, limit = MAX_CHARACTERS) {
  element.replaceChildren();
  element.dir = "auto";
  const shown = text.slice(0, limit);
  let from = 0;
  if (typeof temml !== "undefined") {
    for (const match of shown.matchAll(LATEX)) {
      appendVisible(element, shown.slice(from, match.index));
      const [source, dollars, brackets, parentheses, dollar, boxed] = match;
      const latex = dollars ?? brackets ?? parentheses ?? dollar ?? boxed;
      appendFormula(element, source, latex, dollars !== undefined || brackets !== undefined);
      from = match.index + source.length;
    }
  }
  appendVisible(element, shown.slice(from));
  if (text.length > limit) element.append(moreOf(element, text, limit));
  return element;
}

function moreOf(element, text, limit) {
  if (limit < MAX_CHARACTERS) return "…";
  const label = `… show all ${text.length.toLocaleString("en")} characters`;
  return make("button", "", label, { type: "button", onclick: () => showText(element, text, Infinity) });
}

/** A label of one line: no line ends, no blanks around, only its first characters. */
function oneLine(text) {
  return text.slice(0, 400).replace(HIDDEN, "�").replace(/\s+/g, " ").trim().slice(0, 120);
}
