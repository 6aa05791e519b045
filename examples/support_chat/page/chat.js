// A support conversation. What was said is kept for as long as the tab is, so a reload loses nothing either.

import { Activity } from "./activity.js";
import { Connection } from "./connection.js";
import { Transcript } from "./transcript.js";

const STORED_AS = "support-chat";
const AGAIN_MS = 3000;
const STATES = { opening: "Connecting", open: "Online", lost: "Connecting again" };

const $ = (id) => document.getElementById(id);
const address = gatewayAddress();
const memory = recalled();
const transcript = new Transcript($("transcript"), $("scroller"));
const activity = new Activity($("activity"), $("activity-text"));
const connection = new Connection(address, memory.place, hear, showConnection);
// One at a time: of two that are under way at once, either may be stored first.
let underWay = null;

function hear(frame) {
  switch (frame.op) {
    case "welcome":
      memory.conversation ??= frame.connection;
      connection.say({ op: "subscribe", id: "runs", types: ["ws.message"], key: memory.conversation, include: ["progress"] });
      underWay = null;
      sendNext();
      break;
    case "published":
      settle(frame.id, { state: "stored", eventId: frame.event_id });
      break;
    case "refused":
      refused(frame.id, frame.problem);
      break;
    case "reply":
      answered(frame, textOf(frame.output), { ticket: frame.output?.ticket });
      break;
    case "failed":
      answered(frame, "Sorry, this could not be answered. It is noted, and somebody will look at it.", { isFailure: true });
      break;
    case "progress":
      activity.progress(frame.progress);
      transcript.follow();
      break;
  }
  remember();
}

function write(text) {
  const line = { kind: "line", id: newId(), at: Date.now(), text, state: "waiting" };
  memory.entries.push(line);
  showLine(line);
  sendNext();
  remember();
}

/** Sent again after a lost connection, a line is stored once: its id says that it is the same. */
function sendNext() {
  const line = memory.entries.find((entry) => entry.state === "waiting");
  if (!line || underWay || !connection.isOpen || !memory.conversation) return;
  underWay = line.id;
  const about = { id: line.id, key: memory.conversation, correlation_id: memory.conversation };
  connection.say({
    op: "publish",
    id: line.id,
    event: { type: "ws.message", payload: { content: line.text }, ...about },
  });
}

function settle(id, change) {
  const line = memory.entries.find((entry) => entry.id === id);
  if (!line) return;
  Object.assign(line, change);
  underWay = null;
  showLine(line);
  sendNext();
}

function refused(id, { status, detail, errors }) {
  if (id !== underWay) return;
  if (status < 500 && status !== 429) {
    settle(id, { state: "refused", problem: `Not sent: ${errors?.[0].reason ?? detail}` });
    return;
  }
  // It may have been stored all the same, or will be the next time.
  underWay = null;
  setTimeout(sendNext, AGAIN_MS);
}

function answered({ event_id: eventId, delivery_id, dead_letter_id }, text, details) {
  const id = delivery_id ?? dead_letter_id;
  // A cursor that could not be resumed from may bring replies once more.
  if (!memory.entries.some((entry) => entry.id === id)) {
    const reply = { kind: "reply", id, eventId, at: Date.now(), text, ...details };
    memory.entries.push(reply);
    show(reply);
  }
  const line = memory.entries.find((entry) => entry.kind === "line" && entry.eventId === eventId);
  if (line) showLine(line);
}

function show(entry) {
  $("welcome").hidden = true;
  if (entry.kind === "line") showLine(entry);
  else transcript.showReply(entry);
}

/** The answer may come before the word that the line is stored. */
function showLine(line) {
  $("welcome").hidden = true;
  const isAnswered = line.eventId && memory.entries.some((entry) => entry !== line && entry.eventId === line.eventId);
  transcript.showLine(isAnswered ? { ...line, state: "answered" } : line);
  if (isAnswered) activity.end(line.eventId);
  else if (line.eventId) activity.begin(line.eventId);
  transcript.follow();
}

function showConnection(state, failures) {
  const place = $("connection");
  place.dataset.state = state;
  place.textContent = STATES[state];
  // The browser does not tell a page why. These are the two things that people forget.
  place.title = failures < 3 ? "" : `${address} does not answer, or does not allow pages of ${location.origin}`;
  if (failures >= 3 && !memory.conversation) place.textContent = place.title;
}

function textOf(output) {
  if (typeof output === "string") return output;
  return output?.reply ?? JSON.stringify(output);
}

function gatewayAddress() {
  const url = new URL(document.querySelector("meta[name=gateway]").content, location.href);
  url.protocol = url.protocol.replace("http", "ws");
  return url;
}

function recalled() {
  return JSON.parse(sessionStorage.getItem(STORED_AS)) ?? { place: {}, conversation: undefined, entries: [] };
}

function remember() {
  sessionStorage.setItem(STORED_AS, JSON.stringify(memory));
}

/** crypto.randomUUID is missing where a page comes over plain HTTP from another machine. */
function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const line = $("line");

function fit() {
  line.style.height = "auto";
  line.style.height = `${line.scrollHeight}px`;
  $("send").disabled = !line.value.trim();
}

line.addEventListener("input", fit);
line.addEventListener("keydown", (event) => {
  // While an input method composes, Enter chooses a word.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = line.value.trim();
  if (text) write(text);
  line.value = "";
  fit();
  line.focus();
});
$("welcome").addEventListener("click", ({ target }) => {
  if (target.matches("button")) write(target.textContent);
  line.focus();
});
$("anew").addEventListener("click", () => {
  sessionStorage.removeItem(STORED_AS);
  location.reload();
});

fit();
memory.entries.forEach(show);
connection.open();
if (matchMedia("(hover: hover)").matches) line.focus();
