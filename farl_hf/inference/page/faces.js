// Faces on their photo, from the JSON that `Faces.to_dict` writes and `FaceService.answer` adds to.

const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// Pixel indices count from the first pixel's centre, SVG from its edge.
const path = (points, closed = false) =>
  "M" + points.map(([x, y]) => `${x + 0.5} ${y + 0.5}`).join("L") + (closed ? "Z" : "");

/** Draws a photo (its address, or a canvas) with what was found in it; `--opacity` of the stage is the label map's. */
export function drawFaces(stage, photo, answer) {
  const [height, width] = answer.image_size;
  stage.replaceChildren();
  stage.style.aspectRatio = `${width} / ${height}`;
  stage.style.width = `min(100%, ${Math.round(75 * width / height)}vh)`;
  stage.append(photo instanceof Element ? photo : Object.assign(new Image(), { src: photo, alt: "the photo" }));
  if (answer.label_map) {
    const labels = Object.assign(new Image(), { src: answer.label_map, alt: "label map", className: "labels" });
    labels.style.opacity = "var(--opacity, 0.55)";
    stage.append(labels);
  }
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "boxes and landmarks" });
  for (const face of answer.faces) {
    const [left, top, right, bottom] = face.box;
    const line = Math.max(width, height) / 400;
    draw(path([[left, top], [right, top], [right, bottom], [left, bottom]], true), line);
    const points = face.landmarks ?? face.points ?? [];
    // Small faces of a large photo keep thin lines.
    const thin = Math.min(line, Math.max(right - left, bottom - top) / 90);
    for (const indices of answer.landmark_lines ?? []) draw(path(indices.map((i) => points[i])), thin);
    for (const [x, y] of points)
      drawing.append(svg("circle", { cx: x + 0.5, cy: y + 0.5, r: 1.3 * thin, class: "dots", "stroke-width": thin / 2 }));
  }
  stage.append(drawing);

  function draw(d, thickness) {
    drawing.append(svg("path", { d, class: "halo", "stroke-width": 2 * thickness }));
    drawing.append(svg("path", { d, class: "lines", "stroke-width": thickness }));
  }
}

/** The colours and names of the classes that occur. */
export function showLegend(list, answer) {
  list.replaceChildren(...(answer.legend ?? []).map(({ name, colour }) => {
    const entry = document.createElement("li"), swatch = document.createElement("i");
    swatch.style.background = colour;
    entry.append(swatch, name);
    return entry;
  }));
}

/** One card per face: score, pose, openness, the likeliest attributes or the shares of one's own words. */
export function showFaces(list, answer, task) {
  list.replaceChildren(...answer.faces.map((face, number) => {
    const card = document.createElement("li"), title = document.createElement("strong");
    title.textContent = `Face ${number + 1}` + (face.score == null ? "" : `, certain to ${percent(face.score)}`);
    card.append(title);
    if (face.head_pose) {
      const words = [["right", "left"], ["down", "up"], ["clockwise", "anticlockwise"]];
      say("turned " + face.head_pose.map((angle, i) => `${Math.abs(Math.round(angle))}° ${words[i][angle < 0 ? 1 : 0]}`).join(", "));
    }
    if (face.eye_openness) say(`eyes open ${face.eye_openness.map(number2).join(" and ")}, mouth ${number2(face.mouth_openness)}`);
    const attributes = Object.entries(face.attributes ?? {}).sort((a, b) => b[1] - a[1]);
    for (const [name, share] of task === "zeroshot" ? attributes : attributes.slice(0, 6)) {
      const row = document.createElement("div"), meter = document.createElement("meter");
      row.className = "share";
      meter.value = share;
      row.append(name.replaceAll("_", " "), percentElement(share), meter);
      card.append(row);
    }
    return card;

    function say(text) {
      card.append(Object.assign(document.createElement("p"), { textContent: text }));
    }
  }));
}

const percent = (share) => `${Math.round(100 * share)} %`;
const number2 = (value) => (value == null ? "?" : value.toFixed(2));
const percentElement = (share) => Object.assign(document.createElement("span"), { textContent: percent(share) });
