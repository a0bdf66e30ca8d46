// What the page asks of its server: JSON, pictures, and answers as they are written.

let key = sessionStorage.getItem("key") || "";

export function setKey(value) {
  key = value;
  sessionStorage.setItem("key", value);
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = {...options.headers, ...(key ? {Authorization: `Bearer ${key}`} : {})};
  const answer = await fetch(path, {...options, headers});
  if (answer.ok) return answer;
  let message = `${answer.status} ${answer.statusText}`;
  try {
    message = (await answer.json()).error.message;
  } catch { /* an answer that is not ours: its status says enough */ }
  throw new Refused(answer.status, message);
}

export async function json(path) {
  return (await ask(path)).json();
}

/** The answer to a body of JSON; throws Refused, or what broke the connection. */
export function post(path, body, signal) {
  return ask(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body), signal});
}

/** The address of a picture that needs the key as well; whoever shows it revokes it. */
export async function picture(path) {
  return URL.createObjectURL(await (await ask(path)).blob());
}

/** Pieces of the answer to a conversation: {text}, {reason}, {usage}; throws Refused, or what broke the connection. */
export async function* stream(model, messages, signal) {
  const answer = await post("v1/chat/completions", {model, messages, stream: true, stream_options: {include_usage: true}}, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) throw new Error("broken");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Refused(500, chunk.error.message);
      if (chunk.usage) yield {usage: chunk.usage};
      for (const choice of chunk.choices) {
        if (choice.delta.content) yield {text: choice.delta.content};
        if (choice.finish_reason) yield {reason: choice.finish_reason};
      }
    }
  }
}
