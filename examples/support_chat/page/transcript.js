// The conversation as it is shown: entries become list items, and what changes about an entry changes its item.

const STATES = {
  waiting: ["◌", "Waiting to be sent"],
  stored: ["✓", "Received"],
  answered: ["✓✓", "Answered"],
  refused: ["!", "Not sent"],
};
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
// How far from its end a reader may be and still be taken along.
const NEAR_PX = 120;

export class Transcript {
  #list;
  #scroller;
  #items = new Map();

  constructor(list, scroller) {
    this.#list = list;
    this.#scroller = scroller;
    // A keyboard that slides in on a phone makes the window smaller.
    new ResizeObserver(() => this.follow()).observe(scroller);
  }

  /** An entry of the customer's: {id, at, text, state, problem}. */
  showLine({ id, at, text, state, problem }) {
    const { item, isNew } = this.#item(id);
    if (isNew) {
      item.className = "line";
      item.append(unseen("You: "), element("p", "text", text), element("p", "foot"));
    }
    const [sign, meaning] = STATES[state];
    const tick = element("span", "tick", sign);
    tick.dataset.state = state;
    tick.setAttribute("role", "img");
    tick.setAttribute("aria-label", meaning);
    tick.title = meaning;
    const why = problem ? [element("span", "problem", problem)] : [];
    item.querySelector(".foot").replaceChildren(...why, clock(at), tick);
    if (isNew) this.follow(true);
  }

  /** An entry of the desk's: {id, at, text, ticket, isFailure}. */
  showReply({ id, at, text, ticket, isFailure }) {
    const { item, isNew } = this.#item(id);
    if (!isNew) return;
    const wasNear = this.#isNear();
    item.className = isFailure ? "reply failure" : "reply";
    item.append(unseen("Support: "));
    if (ticket) {
      const stub = element("p", "ticket");
      stub.append(element("span", "", "Ticket"), element("strong", "", ticket));
      item.append(stub);
    }
    const foot = element("p", "foot");
    foot.append(clock(at));
    item.append(element("p", "text", text), foot);
    this.follow(wasNear);
  }

  /** Go to the end, unless the reader has gone back to read. */
  follow(certainly = this.#isNear()) {
    if (certainly) this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }

  #isNear() {
    const { scrollHeight, scrollTop, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_PX;
  }

  #item(id) {
    const known = this.#items.get(id);
    if (known) return { item: known, isNew: false };
    const item = document.createElement("li");
    this.#items.set(id, item);
    this.#list.append(item);
    return { item, isNew: true };
  }
}

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  // As text: what a model says must not become a part of the page.
  made.textContent = text;
  return made;
}

function unseen(text) {
  return element("span", "unseen", text);
}

function clock(at) {
  const time = element("time", "", CLOCK.format(at));
  time.dateTime = new Date(at).toISOString();
  return time;
}
