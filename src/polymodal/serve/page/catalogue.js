// The catalogue: every system in a table that can be searched, its map by year and fusion, its drawing.

import {json, picture} from "./server.js";
import {kinds, word} from "./words.js";

const at = (id) => document.getElementById(id);
let systems = null;

export async function showCatalogue() {
  if (!systems) at("count").textContent = word("reading");
  systems ??= await json("api/systems");
  at("find").oninput = at("fusion").onchange = list;
  list();
}

function list() {
  const sought = at("find").value.trim().toLowerCase(), fusion = at("fusion").value;
  const found = systems.filter((system) =>
    (!fusion || system.fusion.includes(fusion)) && [system.id, ...system.names].some((name) => name.toLowerCase().includes(sought)));
  at("count").textContent = found.length ? word("shown", found.length, systems.length) : word("none");
  at("systems").replaceChildren(...found.map(row));
  at("map").replaceChildren(map(found));
  at("map").scrollLeft = at("map").scrollWidth; // on a narrow screen the newest years first
}

function row(system) {
  const line = document.createElement("tr");
  const name = document.createElement("button");
  name.type = "button";
  name.className = "link";
  name.textContent = system.names[0] || system.id;
  name.onclick = () => open(system);
  const cells = [name, system.year, system.fusion.map((type) => type in word("type") ? `${type}: ${word("type")[type]}` : type).join("; "), kinds(system.inputs), kinds(system.outputs)];
  line.append(...cells.map((content, index) => {
    const cell = document.createElement(index ? "td" : "th");
    if (!index) cell.scope = "row";
    cell.append(content ?? "");
    return cell;
  }));
  return line;
}

/** Whether a system is of a fusion type; "" for none. */
function of(system, type) {
  return type ? system.fusion.includes(type) : !system.fusion.length;
}

/** Years across, fusion types down; a system is a button where it belongs. */
function map(found) {
  const grid = document.createElement("div");
  grid.className = "grid";
  const years = [...new Set(systems.map((system) => system.year))].filter(Boolean).sort();
  grid.style.setProperty("--years", years.length);
  const box = (text, kind) => { const cell = document.createElement("div"); cell.className = kind; cell.append(text); grid.append(cell); return cell; };
  box("", "corner");
  for (const year of years) box(String(year), "year");
  const types = new Set(systems.flatMap((system) => system.fusion.length ? system.fusion : [""]));
  for (const type of [...types].sort((a, b) => (a || "~").localeCompare(b || "~"))) {
    box(type || "–", "type").title = word("type")[type] ?? "";
    for (const year of years) {
      const cell = box("", "cell");
      for (const system of found.filter((each) => of(each, type) && each.year === year)) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = system.names[0] || system.id;
        button.onclick = () => open(system);
        cell.append(button);
      }
    }
  }
  return grid;
}

async function open(system) {
  const dialog = at("detail"), place = at("drawing");
  at("detail-name").textContent = `${system.names[0] || system.id} (${system.year})`;
  place.textContent = word("loading");
  dialog.showModal();
  try {
    const image = document.createElement("img");
    image.alt = system.headline || system.id;
    image.src = await picture(`api/drawings/${encodeURIComponent(system.id)}.svg`);
    dialog.onclose = () => { URL.revokeObjectURL(image.src); place.replaceChildren(); };
    const text = document.createElement("p");
    text.textContent = system.headline;
    place.replaceChildren(text, image);
  } catch (problem) {
    place.textContent = problem.message;
  }
}
