// Boxes of what an answer is about, drawn over a copy of each picture.

const COLOURS = ["#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#9a6324", "#808000"];

function shape(kind, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

/** source: the address of a picture.  things: [{label, box: [left, top, right, bottom] in 0..1}]. */
export function boxed(source, things) {
  const figure = document.createElement("figure");
  figure.className = "boxed";
  const picture = document.createElement("img");
  picture.src = source;
  const names = [...new Set(things.map((thing) => thing.label))];
  picture.alt = names.filter(Boolean).join(", ");
  const over = shape("svg", {"aria-hidden": "true"});
  const share = (value) => `${(100 * value).toFixed(2)}%`;
  for (const {label, box: [left, top, right, bottom]} of things) {
    const colour = COLOURS[names.indexOf(label) % COLOURS.length];
    over.append(shape("rect", {x: share(left), y: share(top), width: share(right - left), height: share(bottom - top), stroke: colour}));
    // Above the box, inside it where there is no room.
    if (label) over.append(shape("text", {x: share(left), y: share(top), dx: 3, dy: top > 0.08 ? -4 : 15, fill: colour}, label));
  }
  figure.append(picture, over);
  return figure;
}
