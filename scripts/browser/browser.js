import * as ort from "./ort.wasm.min.mjs";
import { drawFaces, showFaces, showLegend } from "./faces.js";

// More threads need headers that a plain file server does not send.
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "error";
ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;

const at = (id) => document.getElementById(id);
const settings = await (await fetch("settings.json")).json();
const open = (name) => ort.InferenceSession.create(`${name}.onnx`, { executionProviders: ["wasm"] });
say("Loading the networks", "busy");
const networks = { parsing: await open("parsing"), alignment: await open("alignment"), yunet: await open("yunet") };
say("Ready");

/** A canvas (width x height) that is drawn on with bilinear interpolation. */
function canvasOf(width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "low";
  return { canvas, context };
}

// ------------------------------------------------------------------------------------------------------------ detection

const YUNET_SIDE = 640, STRIDES = [8, 16, 32];

/** YuNet's faces: box [left, top, right, bottom], five points, score, in the photo's continuous coordinates. */
async function detect(photo) {
  let found = [];
  // A face that fills the picture is larger than what YuNet has seen: it is found at half the size.
  for (const side of settings.detector.sides) {
    const scale = Math.min(1, side / Math.max(photo.width, photo.height));
    found.push(...(await search(photo, scale)));
  }
  found = found.filter((face) => face.score >= settings.detector.threshold).sort((a, b) => b.score - a.score);
  const kept = [];
  for (const face of found) if (kept.every((other) => overlap(face.box, other.box) < 0.3)) kept.push(face);
  return kept;
}

async function search(photo, scale) {
  const { context } = canvasOf(YUNET_SIDE, YUNET_SIDE);
  context.imageSmoothingQuality = "high";
  context.drawImage(photo, 0, 0, photo.width * scale, photo.height * scale);
  const { data } = context.getImageData(0, 0, YUNET_SIDE, YUNET_SIDE), area = YUNET_SIDE ** 2;
  const pixels = new Float32Array(3 * area); // blue, green, red
  for (let i = 0; i < area; i++) for (let c = 0; c < 3; c++) pixels[c * area + i] = data[4 * i + 2 - c];
  const outputs = await networks.yunet.run({ input: new ort.Tensor("float32", pixels, [1, 3, YUNET_SIDE, YUNET_SIDE]) });
  const found = [];
  for (const stride of STRIDES) {
    const [classes, objects, boxes, points] = ["cls", "obj", "bbox", "kps"].map((name) => outputs[`${name}_${stride}`].data);
    const columns = YUNET_SIDE / stride;
    for (let i = 0; i < columns ** 2; i++) {
      const score = Math.sqrt(clamp01(classes[i]) * clamp01(objects[i]));
      if (score < settings.detector.threshold) continue;
      const column = i % columns, row = Math.floor(i / columns), size = stride / scale;
      const [x, y] = [(column + boxes[4 * i]) * size, (row + boxes[4 * i + 1]) * size];
      const [width, height] = [Math.exp(boxes[4 * i + 2]) * size, Math.exp(boxes[4 * i + 3]) * size];
      const five = [0, 1, 2, 3, 4].map((k) => [
        (column + points[10 * i + 2 * k]) * size, (row + points[10 * i + 2 * k + 1]) * size,
      ]);
      found.push({ score, box: [x - width / 2, y - height / 2, x + width / 2, y + height / 2], points: five });
    }
  }
  return found;
}

const clamp01 = (value) => Math.min(1, Math.max(0, value));

function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]), height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  if (width <= 0 || height <= 0) return 0;
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return (width * height) / (area(a) + area(b) - width * height);
}

// ---------------------------------------------------------------------------------------------------------------- crops

/** The least-squares similarity x -> (a x + b y + e, -b x + a y + f) from points to others. */
function similarity(source, target) {
  const mean = (points, axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length;
  const [sx, sy, tx, ty] = [mean(source, 0), mean(source, 1), mean(target, 0), mean(target, 1)];
  let a = 0, b = 0, spread = 0;
  source.forEach(([x, y], i) => {
    const [u, v, p, q] = [x - sx, y - sy, target[i][0] - tx, target[i][1] - ty];
    a += p * u + q * v;
    b += p * v - q * u;
    spread += u * u + v * v;
  });
  [a, b] = [a / spread, b / spread];
  return { a, b, e: tx - a * sx - b * sy, f: ty + b * sx - a * sy };
}

/** RGB bytes (size, size, 3) of a face's crop: the mean over the photo's pixels where a crop's pixel covers several. */
function cropOf(photo, matrix, size) {
  const factor = Math.min(16, Math.max(1, Math.ceil(1 / Math.hypot(matrix.a, matrix.b)))), side = factor * size;
  const { context } = canvasOf(side, side);
  const { a, b, e, f } = matrix;
  context.setTransform(factor * a, -factor * b, factor * b, factor * a, factor * e, factor * f);
  context.drawImage(photo, 0, 0);
  const { data } = context.getImageData(0, 0, side, side), crop = new Float32Array(3 * size * size);
  for (let y = 0; y < side; y++)
    for (let x = 0; x < side; x++) {
      const to = 3 * (Math.floor(y / factor) * size + Math.floor(x / factor)), from = 4 * (y * side + x);
      for (let c = 0; c < 3; c++) crop[to + c] += data[from + c] / factor ** 2;
    }
  return crop;
}

/** What a network says of one crop (size, size, 3) of levels up to 255. */
export async function predict(task, crop) {
  const { size, mean, std } = settings[task], area = size * size, pixels = new Float32Array(3 * area);
  for (let i = 0; i < area; i++) for (let c = 0; c < 3; c++) pixels[c * area + i] = (crop[3 * i + c] / 255 - mean[c]) / std[c];
  const outputs = await networks[task].run({ pixel_values: new ort.Tensor("float32", pixels, [1, 3, size, size]) });
  return outputs[task === "parsing" ? "logits" : "landmarks"];
}

/** Paints the classes of one face into the photo's map, logits interpolated between the crop's pixels. */
function pasteLabels(labels, width, height, logits, matrix, size) {
  const [, classes, side] = logits.dims, values = logits.data, scale = side / size;
  const { a, b, e, f } = matrix, det = a * a + b * b;
  const back = (u, v) => [(a * (u - e) - b * (v - f)) / det, (b * (u - e) + a * (v - f)) / det];
  const corners = [back(0, 0), back(size, 0), back(0, size), back(size, size)];
  const range = (axis, end) => [
    Math.max(0, Math.floor(Math.min(...corners.map((corner) => corner[axis])))),
    Math.min(end, Math.ceil(Math.max(...corners.map((corner) => corner[axis])))),
  ];
  const [left, right] = range(0, width), [top, bottom] = range(1, height);
  for (let y = top; y < bottom; y++)
    for (let x = left; x < right; x++) {
      const u = (a * (x + 0.5) + b * (y + 0.5) + e) * scale - 0.5, v = (-b * (x + 0.5) + a * (y + 0.5) + f) * scale - 0.5;
      if (u < -0.5 || v < -0.5 || u > side - 0.5 || v > side - 0.5) continue;
      const u0 = clampTo(Math.floor(u), side - 2), v0 = clampTo(Math.floor(v), side - 2);
      const du = clamp01(u - u0), dv = clamp01(v - v0), first = v0 * side + u0;
      let best = 0, most = -Infinity;
      for (let c = 0; c < classes; c++) {
        const i = c * side * side + first;
        const upper = values[i] + du * (values[i + 1] - values[i]);
        const lower = values[i + side] + du * (values[i + side + 1] - values[i + side]);
        const value = upper + dv * (lower - upper);
        if (value > most) [most, best] = [value, c];
      }
      if (best > 0) labels[y * width + x] = best;
    }
}

const clampTo = (value, last) => Math.min(last, Math.max(0, value));

// ------------------------------------------------------------------------------------------------------------- the page

/** The faces of a photo (an ImageBitmap), as `FaceService.answer` gives them, and `labels`, the map itself. */
export async function analyze(photo) {
  const { width, height } = photo, labels = new Uint8Array(width * height), faces = [];
  // The most certain face is painted last, so that it lies on top.
  for (const { box, points, score } of (await detect(photo)).reverse()) {
    const { size } = settings.alignment, toCrop = similarity(points, settings.alignment.points);
    const { a, b, e, f } = toCrop, det = a * a + b * b;
    const normalised = (await predict("alignment", cropOf(photo, toCrop, size))).data, landmarks = [];
    for (let i = 0; i < normalised.length; i += 2) {
      const [u, v] = [normalised[i] * size - e, normalised[i + 1] * size - f];
      landmarks.push([(a * u - b * v) / det - 0.5, (b * u + a * v) / det - 0.5]);
    }
    const toParse = similarity(points, settings.parsing.points);
    const logits = await predict("parsing", cropOf(photo, toParse, settings.parsing.size));
    pasteLabels(labels, width, height, logits, toParse, settings.parsing.size);
    faces.unshift({ box: box.map((value) => value - 0.5), points: points.map(([x, y]) => [x - 0.5, y - 0.5]), score, landmarks });
  }
  const present = [...new Set(labels)].filter((id) => id > 0).sort((x, y) => x - y);
  const legend = present.map((id) => ({ id, name: settings.parsing.names[id], colour: `rgb(${settings.parsing.colours[id]})` }));
  return { image_size: [height, width], faces, labels, legend, landmark_lines: settings.alignment.lines };
}

function say(text, kind = "") {
  at("message").textContent = text;
  at("message").className = kind;
}

async function pictureOf(labels, width, height) {
  const { canvas, context } = canvasOf(width, height), picture = context.createImageData(width, height);
  labels.forEach((id, i) => {
    if (id > 0) picture.data.set([...settings.parsing.colours[id], 255], 4 * i);
  });
  context.putImageData(picture, 0, 0);
  return URL.createObjectURL(await canvas.convertToBlob());
}

async function take(file) {
  if (!file) return;
  for (const id of ["stage", "legend", "faces"]) at(id).replaceChildren();
  at("stage").hidden = at("tools").hidden = true;
  say("Looking", "busy");
  try {
    const photo = await createImageBitmap(file);
    const start = performance.now(), answer = await analyze(photo), count = answer.faces.length;
    answer.label_map = await pictureOf(answer.labels, photo.width, photo.height);
    drawFaces(at("stage"), URL.createObjectURL(file), answer);
    showLegend(at("legend"), answer);
    showFaces(at("faces"), answer, "everything");
    at("stage").hidden = at("tools").hidden = false;
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    say(`${count === 0 ? "No face was found" : count === 1 ? "One face" : `${count} faces`}, in ${seconds} s`);
  } catch (error) {
    say(`This photo cannot be used: ${error.message}`, "wrong");
  }
}

at("file").addEventListener("change", () => {
  take(at("file").files[0]);
  at("file").value = ""; // so that the same file can be chosen again
});
at("opacity").addEventListener("input", () => at("stage").style.setProperty("--opacity", at("opacity").value));
for (const kind of ["dragover", "dragleave", "drop"])
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop") take(event.dataTransfer.files[0]);
  });
