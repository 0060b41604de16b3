// Numbers as people read them, and elements without a template engine.

const MINUS = "−";

/** An element with a class, children and properties. Strings become text, never markup. */
function make(tag, className = "", children = [], properties = {}) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  Object.assign(element, properties);
  element.append(...[children].flat());
  return element;
}

const byId = (id) => document.getElementById(id);

function number(value, digits = 2) {
  return value.toFixed(digits).replace("-", MINUS);
}

const percent = (share) => `${number(100 * share, share > 0 && share < 0.1 ? 1 : 0)}%`;

/** F in a few characters, whatever its size. */
function flowText(logFlow) {
  if (logFlow < Math.log(0.005)) return "<0.01";
  if (logFlow > Math.log(1e4)) return `e^${logFlow.toFixed(0)}`;
  const flow = Math.exp(logFlow);
  return flow < 100 ? flow.toFixed(2) : flow.toFixed(0);
}

const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
