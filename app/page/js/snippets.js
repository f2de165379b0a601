/** Settings -> programs that draw the same picture and save it, ready to be run as they are. */

import { FIELD_NAMES } from "./fields.js";

const KEY = "YOUR_KEY";
// What is not seen, or turns the direction of what follows: it would be lost or mislead when copied.
const UNSEEN = /[\u007f-\u00a0\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const NATIVE_TO_OPENAI = {
  seed: "seed",
  steps: "num_inference_steps",
  guidance_scale: "guidance_scale",
  negative_prompt: "negative_prompt",
  clip_skip: "clip_skip",
};

/**
 * All programs for some settings.
 *
 * @param {object} settings - The body of `POST /generate`, a class by its name. What does not
 *   change the picture, as `previews`, is left out.
 * @param {string|URL} base - Where the service is, with its prefix: `http://localhost:8000/`.
 * @param {{keyed?: boolean, model?: string}} [options] - Whether the service wants a key, for which
 *   a placeholder is written; and the model that draws where the settings name none.
 * @returns {{name: string, text: string, missing: string[]}[]} The programs. `missing` names the
 *   fields that a client has no word for, so that its picture is another one.
 */
export function snippets(settings, base, { keyed = false, model } = {}) {
  const given = FIELD_NAMES.filter((name) => settings[name] !== undefined && settings[name] !== null);
  const body = Object.fromEntries(given.map((name) => [name, settings[name]]));
  const asked = { url: new URL("generate", base).href, body, keyed, many: body.n > 1 };
  return [
    { name: "curl", text: curl(asked), missing: [] },
    { name: "Python", text: python(asked), missing: [] },
    { name: "JavaScript", text: javascript(asked), missing: [] },
    { name: "OpenAI client", ...openai({ model, ...body }, new URL("v1", base).href, keyed) },
  ];
}

/**
 * A text as one word of a POSIX shell.
 *
 * @param {string} text - Without NUL.
 * @returns {string} The word, in single quotes.
 */
export function shellQuoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/**
 * A value as JSON of visible characters, which is an expression of JavaScript as well.
 *
 * @param {*} value - What JSON can say.
 * @returns {string} One line.
 */
export function json(value) {
  const spaced = Array.isArray(value)
    ? `[${value.map(json).join(", ")}]`
    : value && typeof value === "object"
      ? `{${members(value, json).join(", ")}}`
      : JSON.stringify(value);
  return spaced.replace(UNSEEN, escaped);
}

/**
 * A value as an expression of Python. JSON's texts and numbers are Python's, too.
 *
 * @param {*} value - What JSON can say.
 * @returns {string} One line.
 */
export function pythonLiteral(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(pythonLiteral).join(", ")}]`;
  if (typeof value === "object") return `{${members(value, pythonLiteral).join(", ")}}`;
  return json(value);
}

/**
 * An object with a line for each member.
 *
 * @param {object} object - What JSON can say.
 * @param {(value: *) => string} written - A value as an expression of the language.
 * @param {string} indent - Before the last line; members are indented twice as far.
 * @returns {string} The lines; a member takes one.
 */
function block(object, written, indent) {
  const lines = members(object, written).map((member) => `\n${indent}${indent}${member}`);
  return lines.length ? `{${lines.join(",")}\n${indent}}` : "{}";
}

function members(value, written) {
  return Object.entries(value)
    .filter(([, member]) => member !== undefined)
    .map(([name, member]) => `${json(name)}: ${written(member)}`);
}

function escaped(character) {
  return `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
}

function accepted({ many }) {
  return many ? "application/zip" : "image/png";
}

function file({ many }) {
  return many ? "pictures.zip" : "picture.png";
}

function curl(asked) {
  const headers = ["Content-Type: application/json", `Accept: ${accepted(asked)}`];
  if (asked.keyed) headers.push(`X-API-Key: ${KEY}`);
  return [
    `curl -f ${shellQuoted(asked.url)}`,
    ...headers.map((header) => `  -H ${shellQuoted(header)}`),
    `  -d ${shellQuoted(block(asked.body, json, "  "))}`,
    `  -o ${file(asked)}`,
  ].join(" \\\n");
}

function python(asked) {
  const headers = { Accept: accepted(asked), ...(asked.keyed ? { "X-API-Key": KEY } : {}) };
  return `# pip install httpx
import httpx

answer = httpx.post(
    ${pythonLiteral(asked.url)},
    headers=${pythonLiteral(headers)},
    json=${block(asked.body, pythonLiteral, "    ")},
    timeout=300,
)
answer.raise_for_status()
with open("${file(asked)}", "wb") as file:
    file.write(answer.content)`;
}

function javascript(asked) {
  const headers = {
    "Content-Type": "application/json",
    Accept: accepted(asked),
    ...(asked.keyed ? { "X-API-Key": KEY } : {}),
  };
  return `import { writeFile } from "node:fs/promises";

const answer = await fetch(${json(asked.url)}, {
  method: "POST",
  headers: ${json(headers)},
  body: JSON.stringify(${block(asked.body, json, "  ")}),
});
if (!answer.ok) throw new Error((await answer.json()).detail);
await writeFile("${file(asked)}", Buffer.from(await answer.arrayBuffer()));`;
}

function openai(settings, url, keyed) {
  const told = { prompt: settings.prompt ?? String(settings.class ?? "") };
  const extra = {};
  const missing = [];
  const sized = settings.width && settings.height;
  for (const [name, value] of Object.entries(settings)) {
    if (name === "n" || (name === "model" && value)) told[name] = value;
    else if (Object.hasOwn(NATIVE_TO_OPENAI, name)) extra[NATIVE_TO_OPENAI[name]] = value;
    else if (name === "sampler") extra.sampler = sampler(settings);
    else if (name === "spacing") missing.push(...(settings.sampler ? [] : [name]));
    else if (name === "width" || name === "height") missing.push(...(sized ? [] : [name]));
    else if (!isSaid(name, value)) missing.push(name);
  }
  if (sized) told.size = `${settings.width}x${settings.height}`;
  const words = Object.entries(told).map(([name, value]) => `    ${name}=${pythonLiteral(value)},`);
  const key = keyed ? KEY : "none";
  const text = `# pip install openai
import base64

from openai import OpenAI

client = OpenAI(base_url=${pythonLiteral(url)}, api_key="${key}")
answer = client.images.generate(
${words.join("\n")}
    response_format="b64_json",
    extra_body=${block(extra, pythonLiteral, "    ")},
)
${saving(told.n > 1)}`;
  return { text, missing };
}

function saving(many) {
  if (!many) {
    return `with open("picture.png", "wb") as file:
    file.write(base64.b64decode(answer.data[0].b64_json))`;
  }
  return `for number, image in enumerate(answer.data):
    with open(f"picture-{number}.png", "wb") as file:
        file.write(base64.b64decode(image.b64_json))`;
}

/** A sampler and its spacing in one name, as AUTOMATIC1111 writes them. */
function sampler({ sampler: name, spacing }) {
  if (!spacing) return name;
  return `${name} ${spacing === "default" ? "uniform" : spacing}`;
}

/** Whether a field is said elsewhere, or changes nothing. */
function isSaid(name, value) {
  if (name === "eta") return value === 0;
  if (name === "guidance_interval") return value[0] === 0 && value[1] === 1;
  return ["model", "class", "prompt"].includes(name);
}
