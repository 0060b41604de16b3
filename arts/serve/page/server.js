// What the page asks its own server: what it offers, and searches, which come as streams of events.

const REASONS = {
  400: (said) => `The server cannot do this: ${said}`,
  401: () => "This key does not open the server. Give one of its keys above.",
  429: (said, seconds) => `The server has too much to do. Try again in ${seconds} s.`,
};

/** A request to our own origin. Throws an Error whose message is for people; `status` is 0 where nobody answered. */
async function askServer(path, key, { body, signal } = {}) {
  if (/[^\x21-\x7e]/.test(key)) throw refusal(401, REASONS[401]());
  const headers = {};
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const request = { method: body ? "POST" : "GET", headers, signal, cache: "no-store", credentials: "omit" };
  if (body) request.body = JSON.stringify(body);
  let answer;
  try {
    answer = await fetch(path, request);
  } catch (error) {
    if (signal?.aborted) throw error;
    throw refusal(0, "The server cannot be reached. Is it still running?");
  }
  if (answer.ok) return answer;
  const said = (await answer.json().catch(() => null))?.error?.message ?? `it answered ${answer.status}`;
  const reason = REASONS[answer.status] ?? ((words) => `The search failed: ${words}.`);
  throw refusal(answer.status, reason(said, answer.headers.get("Retry-After") ?? "a few"));
}

function refusal(status, message) {
  return Object.assign(new Error(message), { status });
}

/**
 * Search, and tell of every event (`onEvent`), of the answer's `arts` field (`onAnswer`) and of the bills (`onUsage`).
 * Aborting `signal` ends the search on the server too.
 */
async function search({ problem, model, budget }, key, signal, { onEvent, onAnswer, onUsage }) {
  const body = {
    model, messages: [{ role: "user", content: problem }], stream: true, stream_options: { include_usage: true },
    arts: { events: "tree", tree: true, ...(budget && { budget_tokens: budget }) },
  };
  const answer = await askServer("v1/chat/completions", key, { body, signal });
  for await (const block of blocksOf(answer.body)) {
    if (block.startsWith(": arts ")) onEvent(JSON.parse(block.slice(": arts ".length)));
    if (!block.startsWith("data: ")) continue;
    if (block === "data: [DONE]") return;
    const piece = JSON.parse(block.slice("data: ".length));
    if (piece.error) throw refusal(0, `The search failed: ${piece.error.message}.`);
    if (piece.arts) onAnswer(piece.arts);
    if (piece.usage) onUsage(piece.usage);
  }
  throw refusal(0, "The connection broke off before there was an answer.");
}

/** The blocks of a stream of server-sent events, which empty lines part. */
async function* blocksOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const blocks = (rest + part.value).split("\n\n");
    rest = blocks.pop();
    yield* blocks;
  }
}
