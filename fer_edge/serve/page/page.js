// The page of `fer-edge serve`: sends a picture, draws boxes and bars. No library, no other server.

const FIXED = new Set(["image", "face", "label", "confidence", "confident", "latency_ms", "box", "problem"]);
const COLOURS = ["#ffd23f", "#4ade80", "#38bdf8", "#fb7185", "#c4b5fd", "#fdba74"];
const FRAME_WIDTH = 640;
const LEAST_SIDE = 640;
const MOST_SIDE = 2000;
const SPEAK_EVERY_MS = 2000;

const at = (id) => document.getElementById(id);
const canvas = at("picture");
const video = at("video");
let limits = { bytes: 20e6 };
let stream = null;
let latest = 0; // the number of the newest request: older answers are dropped
let shown = null; // what was sent last, for "The picture is one face"
let running = null; // what stops the request that is under way
let spoken = { text: "", when: -Infinity };
let scale = 1; // pixels of the canvas per pixel of the picture

start();

async function start() {
  at("choose").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", () => {
    take(at("file").files[0]);
    at("file").value = ""; // the same file may be chosen again
  });
  at("camera").addEventListener("click", () => (stream ? stopCamera() : startCamera()));
  at("crop").addEventListener("change", () => !stream && shown && take(shown));
  for (const kind of ["dragover", "drop"]) {
    document.addEventListener(kind, (event) => event.preventDefault());
  }
  document.addEventListener("dragover", () => at("drop").classList.add("over"));
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) at("drop").classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    at("drop").classList.remove("over");
    const file = event.dataTransfer.files[0];
    file ? take(file) : complain("That was not the file of a picture.");
  });
  document.addEventListener("paste", (event) => {
    const file = [...event.clipboardData.files].find((one) => one.type.startsWith("image/"));
    if (file) take(file);
  });
  if (!navigator.mediaDevices) {
    at("camera").disabled = true;
    at("camera").title = "A browser gives the webcam only to https and to localhost.";
  }
  await describe();
}

async function describe() {
  try {
    const facts = await (await fetch("/v1/model")).json();
    if (facts.error) throw new Error(facts.error);
    limits = facts.limits;
    const faces = facts.detector ? `faces: ${facts.detector}` : "no face detector: each picture is one face";
    const synthetic = facts.synthetic ? " · trained on synthetic faces, so its answers are not valid" : "";
    at("model").textContent =
      `${facts.name} · ${facts.backend} ${facts.precision} · ${faces} · ${facts.classes.length} classes${synthetic}`;
    if (!facts.detector) {
      at("crop").checked = true;
      at("crop").disabled = true;
    }
  } catch (error) {
    at("model").textContent = "The server does not answer.";
  }
}

// ---- one picture

async function take(file) {
  if (!file) return;
  if (stream) stopCamera();
  shown = file;
  const number = ++latest;
  complain("");
  if (file.size > limits.bytes) {
    return fail(`The picture has ${file.size.toLocaleString("en")} bytes; the limit is ${limits.bytes.toLocaleString("en")}.`);
  }
  say("Looking …");
  at("output").setAttribute("aria-busy", "true");
  const [picture, reply] = await Promise.all([decoded(file), predict(file)]);
  if (number !== latest) return;
  at("output").removeAttribute("aria-busy");
  show(picture, picture && [picture.width, picture.height]);
  if (reply.error) return fail(reply.error, reply.fix);
  draw(reply.answers);
  list(reply.answers);
  times(reply);
  say(inWords(reply.answers));
}

async function decoded(file) {
  try {
    return await createImageBitmap(file);
  } catch (error) {
    return null; // the server may read formats that this browser does not, such as TIFF
  }
}

async function predict(body) {
  if (running) running.abort(); // the server drops what nobody waits for
  const mine = (running = new AbortController());
  const whole = at("crop").checked && !at("crop").disabled;
  const started = performance.now();
  try {
    const answer = await fetch(`/v1/predict${whole ? "?detect=false" : ""}`, {
      method: "POST",
      body,
      signal: mine.signal,
      headers: { "Content-Type": body.type.startsWith("image/") ? body.type : "application/octet-stream" },
    });
    const reply = await answer.json();
    reply.trip = performance.now() - started;
    reply.status = answer.status;
    reply.wait = Number(answer.headers.get("Retry-After") || 0);
    return reply;
  } catch (error) {
    return { error: "The server does not answer.", fix: "Is it still running?", status: 0, wait: 2 };
  }
}

// ---- the webcam: one frame at a time, always the newest

async function startCamera() {
  complain("");
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 }, facingMode: "user" } });
  } catch (error) {
    const reason = error.name === "NotAllowedError" ? "This page may not use it." : "None was found, or another program uses it.";
    return fail(`No webcam: ${reason}`);
  }
  shown = null;
  latest++;
  video.srcObject = stream;
  at("camera").textContent = "Stop the webcam";
  at("camera").setAttribute("aria-pressed", "true");
  stream.getVideoTracks()[0].addEventListener("ended", stopCamera);
  await video.play();
  watch(stream);
}

function stopCamera() {
  if (!stream) return;
  for (const track of stream.getTracks()) track.stop();
  stream = null;
  latest++;
  video.srcObject = null;
  at("camera").textContent = "Webcam";
  at("camera").setAttribute("aria-pressed", "false");
}

async function watch(mine) {
  const frame = document.createElement("canvas");
  while (stream === mine) {
    if (document.hidden || !video.videoWidth) {
      await pause(200);
      continue;
    }
    const smaller = Math.min(1, FRAME_WIDTH / video.videoWidth);
    frame.width = Math.round(video.videoWidth * smaller);
    frame.height = Math.round(video.videoHeight * smaller);
    frame.getContext("2d").drawImage(video, 0, 0, frame.width, frame.height);
    const body = await new Promise((done) => frame.toBlob(done, "image/jpeg", 0.9));
    const reply = await predict(body);
    if (stream !== mine) return;
    if (reply.error) {
      fail(reply.error, reply.fix);
      await pause(1000 * Math.max(1, reply.wait));
      continue;
    }
    complain("");
    show(frame, [frame.width, frame.height]);
    draw(reply.answers);
    list(reply.answers);
    times(reply);
    say(inWords(reply.answers), true);
    await new Promise((next) => requestAnimationFrame(next));
  }
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

// ---- what is shown

function show(picture, size) {
  at("stage").hidden = !picture;
  at("hint").hidden = Boolean(picture);
  at("drop").classList.toggle("has-picture", Boolean(picture));
  if (!picture) {
    at("hint").textContent = "This browser cannot show the picture.";
    return;
  }
  // A small picture is enlarged, so that its boxes and labels can be read.
  const longest = Math.max(...size);
  scale = longest < LEAST_SIDE ? LEAST_SIDE / longest : Math.min(1, MOST_SIDE / longest);
  [canvas.width, canvas.height] = size.map((side) => Math.round(side * scale));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
}

function draw(answers) {
  canvas.setAttribute("aria-label", `The picture. ${inWords(answers)}`);
  const pen = canvas.getContext("2d");
  const unit = Math.max(canvas.width, canvas.height) / 400; // about two pixels on the screen
  answers.forEach((row) => {
    if (!row.box) return;
    const [left, top, right, bottom] = row.box.map((edge) => edge * scale);
    const colour = colourOf(row);
    pen.lineWidth = 2 * unit;
    pen.strokeStyle = "#000a";
    pen.strokeRect(left - unit, top - unit, right - left + 2 * unit, bottom - top + 2 * unit);
    pen.strokeStyle = colour;
    pen.strokeRect(left, top, right - left, bottom - top);
    pen.font = `600 ${11 * unit}px system-ui, sans-serif`;
    const text = `${row.face} ${row.label}`;
    const width = pen.measureText(text).width + 8 * unit;
    const height = 16 * unit;
    const x = Math.max(0, Math.min(left - unit, canvas.width - width));
    const y = top >= height ? top - height : Math.min(bottom, canvas.height - height);
    pen.fillStyle = colour;
    pen.fillRect(x, y, width, height);
    pen.fillStyle = "#111";
    pen.textBaseline = "middle";
    pen.fillText(text, x + 4 * unit, y + height / 2);
  });
}

function colourOf(row) {
  return row.confidence === null ? "#b6bcc6" : COLOURS[(row.face - 1) % COLOURS.length];
}

function list(answers) {
  at("faces").replaceChildren(...answers.filter((row) => row.face > 0).map(faceItem));
}

function faceItem(row) {
  const item = document.createElement("li");
  const head = element("div", "face");
  const title = element("b", "", `${row.box ? `${row.face} ` : ""}${row.label}`);
  if (row.box) {
    const swatch = element("span", "swatch"); // the colour of its box
    swatch.style.background = colourOf(row);
    title.prepend(swatch);
  }
  head.append(title);
  item.append(head);
  if (row.confidence === null) {
    item.append(element("p", "quiet", row.problem));
    return item;
  }
  if (row.confident === false) head.append(element("span", "sure", "below the threshold"));
  const table = document.createElement("table");
  table.setAttribute("aria-label", `Probabilities of face ${row.face}`);
  const rows = Object.entries(row)
    .filter(([key]) => !FIXED.has(key))
    .map(([key, value]) => [key.replace(/^class /, ""), value])
    .sort((a, b) => b[1] - a[1]);
  rows.slice(0, 12).forEach(([name, value], place) => {
    const line = table.insertRow();
    if (place === 0) line.className = "best";
    const head = element("th", "", name);
    head.scope = "row";
    line.append(head);
    const bar = element("div", "bar");
    bar.style.width = `${100 * value}%`;
    const track = element("div", "track");
    track.setAttribute("aria-hidden", "true");
    track.append(bar);
    line.insertCell().append(track);
    line.insertCell().textContent = `${(100 * value).toFixed(1)} %`;
  });
  item.append(table);
  return item;
}

function element(kind, style, text = "") {
  const made = document.createElement(kind);
  if (style) made.className = style;
  made.textContent = text;
  return made;
}

function times(reply) {
  const spent = reply.milliseconds;
  const server = spent.wait + spent.read + spent.detect + spent.classify;
  const show = (value) => (value < 10 ? value.toFixed(1) : value.toFixed(0));
  at("times").textContent =
    `Server ${show(server)} ms (detect ${show(spent.detect)}, classify ${spent.classify.toFixed(2)}) · round trip ${show(reply.trip)} ms`;
}

function inWords(answers) {
  const faces = answers.filter((row) => row.face > 0);
  if (!faces.length) return "No face was found.";
  const words = faces.slice(0, 5).map((row) =>
    row.confidence === null ? row.label : `${row.label} ${Math.round(100 * row.confidence)} %`);
  const more = faces.length > 5 ? `, and ${faces.length - 5} more` : "";
  return `${faces.length} ${faces.length === 1 ? "face" : "faces"}: ${words.join(", ")}${more}`;
}

function say(text, often = false) {
  // A screen reader cannot follow every frame of a webcam.
  const now = performance.now();
  if (text === spoken.text || (often && now - spoken.when < SPEAK_EVERY_MS)) return;
  spoken = { text, when: now };
  at("summary").textContent = text;
}

function fail(message, fix = "") {
  at("output").removeAttribute("aria-busy");
  at("faces").replaceChildren();
  at("times").textContent = "";
  say("No answer.");
  complain([message, fix].filter(Boolean).map(sentence).join(" "));
}

function sentence(text) {
  const ended = /[.?!]$/.test(text) ? text : `${text}.`;
  return ended[0].toUpperCase() + ended.slice(1);
}

function complain(text) {
  at("problem").hidden = !text;
  if (at("problem").textContent !== text) at("problem").textContent = text;
}
