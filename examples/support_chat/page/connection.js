// A connection to a gateway that comes back: with the session and the cursor it has, so that replies which came
// meanwhile follow after the welcome.

const LONGEST_WAIT_MS = 10_000;
const ASK_EVERY_MS = 15_000;
const PATIENCE_MS = 10_000;
const BAD_QUERY = 4400;
const PLACES = ["welcome", "reply", "failed", "pong"];

export class Connection {
  #address;
  #place;
  #hear;
  #show;
  #socket = null;
  #failures = 0;
  #retry = 0;
  #asked = false;
  #askedAt = 0;

  /**
   * @param {URL} address of the gateway's /ws
   * @param {{session?: string, cursor?: string}} place where replies go on; kept up to date here, stored by the caller
   * @param {(frame: object) => void} hear gets every frame
   * @param {(state: "opening" | "open" | "lost", failures: number) => void} show gets every change
   */
  constructor(address, place, hear, show) {
    this.#address = address;
    this.#place = place;
    this.#hear = hear;
    this.#show = show;
    setInterval(() => this.#ask(), ASK_EVERY_MS);
    addEventListener("online", () => this.#hurry());
    document.addEventListener("visibilitychange", () => document.hidden || this.#hurry());
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  open() {
    const url = new URL(this.#address);
    const { session, cursor } = this.#place;
    if (session) url.searchParams.set("session", session);
    if (session && cursor) url.searchParams.set("after", cursor);
    const socket = (this.#socket = new WebSocket(url));
    socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    socket.onclose = ({ code }) => this.#lose(code);
    this.#asked = true;
    this.#askedAt = Date.now();
    if (!this.#failures) this.#show("opening", 0);
  }

  say(operation) {
    this.#socket.send(JSON.stringify(operation));
  }

  #receive(frame) {
    this.#asked = false;
    if (frame.op === "welcome") {
      this.#place.session = frame.session;
      this.#failures = 0;
      this.#show("open", 0);
    }
    // The cursor of a subscription is a place among its events, not among the replies.
    if (PLACES.includes(frame.op)) this.#place.cursor = frame.cursor;
    this.#hear(frame);
  }

  #lose(code) {
    this.#socket = null;
    // The gateway has no such place: its log is another one, or no longer goes back so far.
    if (code === BAD_QUERY) delete this.#place[this.#place.cursor ? "cursor" : "session"];
    this.#failures += 1;
    this.#show("lost", this.#failures);
    // At random, so that the clients of a gateway that was restarted do not all come at once.
    const longest = Math.min(LONGEST_WAIT_MS, 500 * 2 ** this.#failures);
    this.#retry = setTimeout(() => this.open(), 250 + Math.random() * longest);
  }

  /** A cut cable closes no connection, and a page does not see the pings of the protocol: so it asks for itself. */
  #ask() {
    if (this.#asked) {
      if (this.#socket && Date.now() - this.#askedAt > PATIENCE_MS) this.#abandon();
    } else if (this.isOpen) {
      this.say({ op: "ping" });
      this.#asked = true;
      this.#askedAt = Date.now();
    }
  }

  /** Closing would wait for an answer. */
  #abandon() {
    const socket = this.#socket;
    socket.onclose = socket.onmessage = null;
    socket.close();
    this.#lose(0);
  }

  #hurry() {
    if (this.#socket) {
      this.#ask();
    } else {
      clearTimeout(this.#retry);
      this.open();
    }
  }
}
