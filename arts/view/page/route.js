// Addresses inside the page: `#PROBLEM/NODE?group=NAME`, with problem and group percent-encoded. Every part may be missing.

const PLACE_OF = new Map(INDEX.keys.map((key, place) => [key, place]));

function readRoute() {
  const [path, query = ""] = location.hash.slice(1).split("?");
  const [key, node] = path.split("/");
  return {
    place: PLACE_OF.get(decoded(key)) ?? null,
    isUnknown: key !== "" && !PLACE_OF.has(decoded(key)),
    node: /^\d+$/.test(node ?? "") ? Number(node) : null,
    group: new URLSearchParams(query).get("group") ?? "",
  };
}

/** A damaged address names no problem; it must not stop the page. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function routeOf(place, node, group) {
  const step = node.parent ? `/${node.id}` : "";
  return `#${encodeURIComponent(INDEX.keys[place])}${step}${group ? `?group=${encodeURIComponent(group)}` : ""}`;
}
