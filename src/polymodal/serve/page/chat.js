// The conversation: what was asked and answered, and the answer that is being written.

import {part, preview} from "./media.js";
import {Refused, post, stream} from "./server.js";
import {word} from "./words.js";

export class Chat {
  /** list: the <ol> of messages; busy(on): an answer is being written; needKey(): the server asks for one. */
  constructor(list, busy, needKey) {
    Object.assign(this, {list, busy, needKey, messages: [], abort: null, voice: null});
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

  /** A picture of what a text says, in place of an answer. */
  async draw(model, text) {
    this.entry("user", word("you"), text);
    const item = this.entry("assistant", model, "").parentElement;
    const note = document.createElement("small");
    item.append(note);
    await this.working(item, async (signal, begin) => {
      const found = await (await post("v1/images/generations", {model, prompt: text}, signal)).json();
      const shown = document.createElement("div");
      shown.className = "media";
      for (const {b64_json} of found.data) {
        const picture = document.createElement("img");
        picture.alt = text;
        picture.src = `data:image/png;base64,${b64_json}`;
        await picture.decode();
        const file = document.createElement("a");
        Object.assign(file, {href: picture.src, download: "picture.png", className: "download", textContent: word("keep")});
        shown.append(picture, file);
      }
      item.insertBefore(shown, note);
      note.textContent = word("drawn", found.usage.output_tokens, ((performance.now() - begin) / 1000).toFixed(1));
    }, note);
    this.again(item, () => this.draw(model, text));
  }

  /** Do work for an entry that is busy meanwhile; it may be stopped, and what goes wrong is shown there. */
  async working(item, work, note) {
    const own = this.abort = new AbortController();
    item.setAttribute("aria-busy", "true");
    this.busy(true);
    try {
      await work(own.signal, performance.now());
    } catch (problem) {
      if (own.signal.aborted) note.textContent = word("stopped");
      else this.failed(item, problem);
    }
    item.removeAttribute("aria-busy");
    if (own === this.abort) {
      this.abort = null;
      this.busy(false);
    }
    item.scrollIntoView({block: "end"});
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
    if (text && this.voice) this.listenButton(item, text);
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
    this.again(item, () => {
      if (this.messages.at(-1)?.role === "assistant") this.messages.pop();
      item.remove();
      this.answer(model);
    });
  }

  again(item, action) {
    for (const old of this.list.querySelectorAll(".retry")) old.remove();
    item.append(button("retry", "retry", action));
  }

  /** Reads an answer aloud, by the voice that the server has. */
  listenButton(item, text) {
    const listen = button("listen", "listen", async () => {
      listen.disabled = true;
      listen.textContent = word("speaking");
      try {
        const sound = await (await post("v1/audio/speech", {model: this.voice, input: text, response_format: "wav"})).blob();
        const player = document.createElement("audio");
        Object.assign(player, {controls: true, src: URL.createObjectURL(sound)});
        player.setAttribute("aria-label", word("listen"));
        listen.replaceWith(player);
        await player.play().catch(() => {}); // a browser that wants a further press shows the player all the same
      } catch (problem) {
        listen.remove();
        this.failed(item, problem);
      }
    });
    item.append(listen);
  }
}

/** A small button below an answer; name: of its word. */
function button(kind, name, action) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = `small ${kind}`;
  made.textContent = word(name);
  made.onclick = action;
  return made;
}
