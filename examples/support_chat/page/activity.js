// What the desk is doing at the moment: from progress, where the gateway sends it, else that it has not answered yet.

const TOOLS = { look_up_order: "Looking up the order", search_help: "Looking in the help pages" };
const TYPING = "Support is typing";
const PATIENCE_MS = 20_000;
const LATE = "This takes longer than usual. The answer will come here, even if you come back later";

export class Activity {
  #place;
  #text;
  #unanswered = new Map();
  #doing = new Map();
  #late = 0;

  /** `place` is shown and hidden; `text` is what it says. */
  constructor(place, text) {
    this.#place = place;
    this.#text = text;
  }

  /** An event that is stored and has no answer yet. */
  begin(eventId) {
    if (!this.#unanswered.has(eventId)) this.#unanswered.set(eventId, Date.now());
    this.#show();
  }

  end(eventId) {
    this.#unanswered.delete(eventId);
    this.#doing.delete(eventId);
    this.#show();
  }

  /** Progress is shown as long as there is no answer; it may have gaps, and may come late. */
  progress({ event_id: eventId, kind, tool, text, request, attempt, inside, outcome }) {
    if (!this.#unanswered.has(eventId)) return;
    if (kind === "tool_call") this.#doing.set(eventId, { says: TOOLS[tool] ?? `Using ${tool}` });
    if (kind === "text" && !inside) {
      const { says, of } = this.#doing.get(eventId) ?? {};
      const now = `${attempt} ${request}`;
      this.#doing.set(eventId, { says: of === now ? says + text : text, of: now });
    }
    // After a success the answer is about to come; until then it shows what led to it.
    if (kind === "run_started" || (kind === "run_ended" && outcome !== "succeeded")) this.#doing.delete(eventId);
    this.#show();
  }

  #show() {
    clearTimeout(this.#late);
    this.#place.hidden = !this.#unanswered.size;
    if (this.#place.hidden) return;
    const since = Math.min(...this.#unanswered.values());
    const left = since + PATIENCE_MS - Date.now();
    const doing = [...this.#doing.values()].at(-1);
    // Read aloud word by word it would be in the way of the answer.
    this.#place.setAttribute("aria-live", doing?.of ? "off" : "polite");
    this.#text.textContent = doing?.says ?? (left > 0 ? TYPING : LATE);
    if (left > 0) this.#late = setTimeout(() => this.#show(), left);
  }
}
