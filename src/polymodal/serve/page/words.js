// Every word of the page, in the languages that it speaks.

const WORDS = {
  en: {
    skip: "Skip to the question", chat: "Chat", catalogue: "Catalogue", theme: "Light or dark", model: "Model", new: "New conversation",
    key: "API key", enter: "Enter", attached: "Attached", question: "Your question",
    hint: "Ask about a picture, a sound or a video. Drop files here, or paste a picture.",
    empty: "Nothing leaves this server: models answer here, about pictures, sound and video.",
    listen: "Listen", speaking: "Speaking…", draw: "Draw", keep: "Save the picture",
    drawn: (ids, seconds) => `${ids} ids in ${seconds} s`, wordsalone: "Pictures are drawn from words alone; remove the files.",
    file: "Add files", record: "Record", recording: "Stop recording", stop: "Stop", send: "Send", retry: "Try again", remove: "Remove",
    find: "Find", fusion: "Fusion", system: "System", year: "Year", inputs: "Takes", outputs: "Gives", close: "Close",
    drop: "Drop to attach", you: "You", stopped: "stopped", cut: "cut at the longest length",
    takes: (list) => `takes ${list}`, tokens: (prompt, written, seconds, first) =>
      `${prompt} + ${written} tokens in ${seconds} s, the first after ${first} s`,
    refused: (name) => `${name} is no picture, sound or video`, large: (name, most) => `${name} is larger than ${most} MB`,
    cannot: (model, kind) => `${model} takes no ${kind}`, unreachable: "The server does not answer. Is it still running?",
    broken: "The answer broke off.", nokey: "This server needs an API key.", nomic: "The microphone may not be used here.",
    none: "No system is called like that.", shown: (count, all) => `${count} of ${all}`, loading: "Drawing…", reading: "Reading the catalogue…",
    type: {A: "cross-attention between blocks", B: "layers inside blocks", C: "features at placeholders", D: "discrete tokens"},
    kinds: {text: "text", image: "pictures", audio: "sound", video: "video"},
  },
  zh: {
    skip: "跳到提问", chat: "对话", catalogue: "模型目录", theme: "浅色或深色", model: "模型", new: "新对话",
    key: "API 密钥", enter: "确定", attached: "附件", question: "您的问题",
    hint: "就图片、声音或视频提问。可将文件拖到此处，或粘贴图片。",
    empty: "数据不会离开此服务器：模型在这里回答有关图片、声音和视频的问题。",
    listen: "朗读", speaking: "正在朗读…", draw: "画图", keep: "保存图片",
    drawn: (ids, seconds) => `${ids} 个词元，用时 ${seconds} 秒`, wordsalone: "画图只用文字，请移除附件。",
    file: "添加文件", record: "录音", recording: "停止录音", stop: "停止", send: "发送", retry: "重试", remove: "移除",
    find: "查找", fusion: "融合方式", system: "系统", year: "年份", inputs: "输入", outputs: "输出", close: "关闭",
    drop: "松开即可添加", you: "您", stopped: "已停止", cut: "达到最大长度",
    takes: (list) => `可接受${list}`, tokens: (prompt, written, seconds, first) =>
      `${prompt} + ${written} 个词元，用时 ${seconds} 秒，首个词元 ${first} 秒`,
    refused: (name) => `${name} 不是图片、声音或视频`, large: (name, most) => `${name} 超过 ${most} MB`,
    cannot: (model, kind) => `${model} 不接受${kind}`, unreachable: "服务器没有响应。它还在运行吗？",
    broken: "回答中断了。", nokey: "此服务器需要 API 密钥。", nomic: "无法使用麦克风。",
    none: "没有这样名称的系统。", shown: (count, all) => `${all} 个中的 ${count} 个`, loading: "正在绘制…", reading: "正在读取目录…",
    type: {A: "层间交叉注意力", B: "层内定制模块", C: "占位符处的特征", D: "离散词元"},
    kinds: {text: "文本", image: "图片", audio: "声音", video: "视频"},
  },
};

let language = localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");

export function word(name, ...values) {
  const found = WORDS[language][name];
  return typeof found === "function" ? found(...values) : found;
}

export function kinds(list) {
  const names = list.map((kind) => WORDS[language].kinds[kind] || kind);
  return names.join(language === "zh" ? "、" : ", ");
}

export function otherLanguage() {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
}

/** Write all words that stand in the page itself. */
export function write() {
  document.documentElement.lang = language;
  for (const each of document.querySelectorAll("[data-word]")) each.textContent = word(each.dataset.word);
  for (const each of document.querySelectorAll("[data-hint]")) each.placeholder = word(each.dataset.hint);
  for (const each of document.querySelectorAll("[data-label]")) each.setAttribute("aria-label", word(each.dataset.label));
  document.getElementById("messages").dataset.empty = word("empty");
  const button = document.getElementById("language");
  button.textContent = language === "zh" ? "English" : "中文";
  button.lang = language === "zh" ? "en" : "zh";
}
