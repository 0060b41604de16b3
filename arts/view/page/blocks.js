// The data of the page: an index of all problems, and blocks of trees that are read when one of them is looked at.

const INDEX = JSON.parse(byId("index").textContent);
const MAX_KEPT = 24; // blocks kept after reading, the newest ones
const kept = new Map();

/** The columns of all trees of a block, by their place. */
function readBlock(block) {
  const known = kept.get(block);
  kept.delete(block);
  const reading = known ?? inflate(byId(`block-${block}`).textContent);
  kept.set(block, reading);
  if (kept.size > MAX_KEPT) kept.delete(kept.keys().next().value);
  return reading;
}

async function inflate(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i); // ten times as quick as Uint8Array.from
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

async function readColumns(place) {
  return (await readBlock(INDEX.blocks[place]))[place];
}

/** Places whose prompt, name or steps hold a text, told as they are found; `stillWanted` ends a search that is out of date. */
async function findText(places, text, stillWanted, tell) {
  const wanted = text.toLowerCase();
  for (const place of [...places].sort((a, b) => a - b)) {
    const columns = await readColumns(place);
    if (!stillWanted()) return;
    const texts = [INDEX.keys[place], columns.prompt, ...columns.texts];
    if (texts.some((one) => one.toLowerCase().includes(wanted))) tell(place);
  }
}
