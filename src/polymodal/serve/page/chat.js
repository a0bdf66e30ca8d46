// The conversation: what was asked and answered, and the answer that is being written.

import {part, preview} from "./media.js";
import {Refused, stream} from "./server.js";
import {word} from "./words.js";

export class Chat {
  /** list: the <ol> of messages; busy(on): an answer is being written; needKey(): the server asks for one. */
  constructor(list, busy, needKey) {
    Object.assign(this, {list, busy, needKey, messages: [], abort: null});
  }

  clear() {
    this.stop();
    this.messages = [];
    this.list.replaceChildren();
  }

  stop() {
    if (this.abort) this.abort.abort();
  }

  async ask(model, text, files) {
    const content = [...await Promise.all(files.map(part)), ...(text ? [{type: "text", text}] : [])];
    this.messages.push({role: "user", content});
    this.entry("user", word("you"), text, files);
    await this.answer(model);
  }

  /** One turn of the list; returns the element of its text. */
  entry(role, who, text, files = []) {
    const item = document.createElement("li");
    item.className = role;
    const name = document.createElement("strong");
    name.textContent = who;
    const shown = document.createElement("div");
    shown.className = "media";
    shown.append(...files.map(preview));
    const words = document.createElement("p");
    words.textContent = text;
    item.append(name, ...(files.length ? [shown] : []), words);
    this.list.append(item);
    item.scrollIntoView({block: "end"});
    return words;
  }

  async answer(model) {
    const words = this.entry("assistant", model, "");
    const item = words.parentElement;
    const note = document.createElement("small");
    item.append(note);
    item.setAttribute("aria-busy", "true");
    const own = this.abort = new AbortController();
    const begin = performance.now();
    let first = null, text = "", usage = null, reason = null, problem = null;
    this.busy(true);
    try {
      for await (const piece of stream(model, this.messages, own.signal)) {
        if (piece.text) {
          first ??= performance.now();
          text += piece.text;
          const below = window.innerHeight + window.scrollY >= document.body.scrollHeight - 80;
          words.textContent = text;
          if (below) window.scrollTo(0, document.body.scrollHeight);
        }
        usage = piece.usage ?? usage;
        reason = piece.reason ?? reason;
      }
    } catch (error) {
      problem = error;
    }
    item.removeAttribute("aria-busy");
    if (own === this.abort) {
      this.abort = null;
      this.busy(false);
    }
    if (!this.list.contains(item)) return; // a new conversation has begun meanwhile
    const seconds = (until) => ((until - begin) / 1000).toFixed(1);
    const notes = [];
    if (usage) notes.push(word("tokens", usage.prompt_tokens, usage.completion_tokens, seconds(performance.now()), seconds(first ?? performance.now())));
    if (reason === "length") notes.push(word("cut"));
    if (own.signal.aborted) notes.push(word("stopped"));
    else if (problem) this.failed(item, problem);
    note.textContent = notes.join(" · ");
    if (text && !problem || own.signal.aborted) this.messages.push({role: "assistant", content: text});
    const below = window.innerHeight + window.scrollY >= document.body.scrollHeight - 120;
    this.retryButton(item, model);
    if (below) window.scrollTo(0, document.body.scrollHeight);
  }

  failed(item, problem) {
    const line = document.createElement("p");
    line.className = "error";
    line.setAttribute("role", "alert");
    line.textContent = problem instanceof Refused ? problem.message : word(problem.message === "broken" ? "broken" : "unreachable");
    item.append(line);
    if (problem.status === 401) this.needKey();
  }

  /** Only the last answer can be tried again. */
  retryButton(item, model) {
    for (const old of this.list.querySelectorAll(".retry")) old.remove();
    const button = document.createElement("button");
    button.type = "button";
    button.className = "retry";
    button.textContent = word("retry");
    button.onclick = () => {
      if (this.messages.at(-1)?.role === "assistant") this.messages.pop();
      item.remove();
      this.answer(model);
    };
    item.append(button);
  }
}
