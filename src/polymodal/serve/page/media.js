// Files that go with a question: chosen, dropped, pasted or recorded; as parts of a message.

import {word} from "./words.js";

const MOST = 32; // MB, as the server takes by default

export class Attachments {
  /** list: the <ul> that shows them; say(text): tells the person what is wrong. */
  constructor(list, say) {
    this.list = list;
    this.say = say;
    this.files = [];
  }

  add(files) {
    for (const file of files) {
      const kind = file.type.split("/")[0];
      if (!["image", "audio", "video"].includes(kind)) this.say(word("refused", file.name));
      else if (file.size > MOST * 1e6) this.say(word("large", file.name, MOST));
      else this.files.push(file);
    }
    this.show();
  }

  take() {
    const files = this.files;
    this.files = [];
    this.show();
    return files;
  }

  show() {
    this.list.replaceChildren(...this.files.map((file) => {
      const item = document.createElement("li");
      const remove = document.createElement("button");
      remove.type = "button";
      remove.textContent = "×";
      remove.setAttribute("aria-label", `${word("remove")} ${file.name}`);
      remove.onclick = () => {
        this.files = this.files.filter((each) => each !== file);
        this.show();
      };
      item.append(preview(file), remove);
      return item;
    }));
  }
}

/** A small picture, player or name of a file. */
export function preview(file) {
  const kind = file.type.split("/")[0];
  const shown = document.createElement(kind === "image" ? "img" : kind);
  const address = URL.createObjectURL(file);
  if (kind === "image") {
    shown.alt = file.name;
    shown.onload = () => URL.revokeObjectURL(address);
    shown.onerror = () => shown.replaceWith(document.createTextNode(file.name)); // HEIC: the server reads it all the same
  } else {
    shown.controls = true;
    shown.preload = "metadata";
    shown.setAttribute("aria-label", file.name);
  }
  shown.src = address;
  return shown;
}

/** A file as a part of a message. */
export async function part(file) {
  const url = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
  const kind = file.type.split("/")[0];
  if (kind === "audio") {
    return {type: "input_audio", input_audio: {data: url.slice(url.indexOf(",") + 1), format: file.type.split("/")[1].split(";")[0]}};
  }
  const plain = url.replace(/^data:([^;,]+)[^,]*,/, "data:$1;base64,");
  return {type: `${kind}_url`, [`${kind}_url`]: {url: plain}};
}

/** A recording from the microphone: start, then stop() gives the file. */
export async function record() {
  const sound = await navigator.mediaDevices.getUserMedia({audio: true});
  const recorder = new MediaRecorder(sound);
  const blocks = [];
  recorder.ondataavailable = (event) => blocks.push(event.data);
  recorder.start();
  return () => new Promise((resolve) => {
    recorder.onstop = () => {
      for (const track of sound.getTracks()) track.stop();
      const type = recorder.mimeType.split(";")[0];
      resolve(new File(blocks, `recording.${type.split("/")[1]}`, {type}));
    };
    recorder.stop();
  });
}
