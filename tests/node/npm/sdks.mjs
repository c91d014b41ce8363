// The npm packages `openai` and `@anthropic-ai/sdk` against a node: node sdks.mjs URL KEY MODEL SOUND
// Prints one JSON object: for each call what came of it and under which id, or which error of the SDK it was.

import fs from "node:fs";
import { File as NodeFile } from "node:buffer";

globalThis.File ??= NodeFile; // before Node 20 it is no global, and uploads need it
const exported = [await import("openai"), await import("@anthropic-ai/sdk")];
const [{ OpenAI, toFile }, { Anthropic }] = exported;

const [url, key, model, sound] = process.argv.slice(2);
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 });

const messages = [{ role: "user", content: "What is two and two?" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const functions = [{ type: "function", function: { name: "weather", parameters } }];
const tools = [{ name: "weather", input_schema: parameters }];
const asked = { model, max_tokens: 50, messages };
const wav = () => fs.createReadStream(sound);

async function all(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

async function told(promise, read) {
  const { data, response } = await promise.withResponse();
  return { said: await read(data), id: response.headers.get("x-satroute-request-id") };
}

const said = (answer) => answer.choices.map((choice) => choice.message.content);
const called = (message) => message.tool_calls.map(({ id, function: f }) => [id, f.name, JSON.parse(f.arguments)]);
const written = (message) => message.content.filter((block) => block.type === "text").map((block) => block.text);
const used = (message) =>
  message.content.filter((block) => block.type === "tool_use").map(({ id, name, input }) => [id, name, input]);
const deltas = (type) => async (stream) =>
  (await all(stream)).filter((event) => event.type === type).map((event) => event.delta);

const calls = {
  models: async () => ({ said: (await all(await openai.models.list())).map((each) => each.id) }),
  chat: () => told(openai.chat.completions.create({ ...asked, n: 2 }), said),
  chat_stream: () =>
    told(openai.chat.completions.create({ ...asked, stream: true }), async (stream) =>
      (await all(stream)).map((chunk) => chunk.choices[0].delta.content).filter(Boolean),
    ),
  chat_tools: () =>
    told(openai.chat.completions.create({ ...asked, tools: functions }), (answer) => called(answer.choices[0].message)),
  chat_tools_stream: async () => {
    const stream = openai.chat.completions.stream({ ...asked, tools: functions });
    return { said: called((await stream.finalChatCompletion()).choices[0].message) };
  },
  completions: () => told(openai.completions.create({ model, prompt: "Two" }), (answer) => answer.choices[0].text),
  completions_stream: () =>
    told(openai.completions.create({ model, prompt: "Two", stream: true }), async (stream) =>
      (await all(stream)).flatMap((chunk) => chunk.choices).map((choice) => choice.text),
    ),
  responses: () => told(openai.responses.create({ model, input: "Two?" }), (answer) => answer.output_text),
  responses_stream: () =>
    told(openai.responses.create({ model, input: "Two?", stream: true }), deltas("response.output_text.delta")),
  embeddings: () =>
    told(openai.embeddings.create({ model, input: ["two", "four"] }), ({ data }) => data.map((each) => each.embedding)),
  moderations: () => told(openai.moderations.create({ model, input: "two" }), ({ results }) => results[0].flagged),
  images: () =>
    told(openai.images.generate({ model, prompt: "two", n: 2 }), ({ data }) => data.map((image) => image.b64_json)),
  images_stream: () =>
    told(openai.images.generate({ model, prompt: "two", stream: true }), async (stream) =>
      (await all(stream)).map((event) => [event.type, event.b64_json]),
    ),
  image_edits: async () => {
    const image = await toFile(Buffer.from("picture"), "a.png", { type: "image/png" });
    return told(openai.images.edit({ model, prompt: "two", image }), ({ data }) => data.map((made) => made.b64_json));
  },
  speech: () => told(openai.audio.speech.create({ model, input: "Two", voice: "alloy" }), (answer) => answer.text()),
  transcriptions: () => told(openai.audio.transcriptions.create({ model, file: wav() }), (answer) => answer.text),
  transcriptions_text: () =>
    told(openai.audio.transcriptions.create({ model, file: wav(), response_format: "text" }), (text) => text),
  transcriptions_stream: () =>
    told(openai.audio.transcriptions.create({ model, file: wav(), stream: true }), deltas("transcript.text.delta")),
  translations: () => told(openai.audio.translations.create({ model, file: wav() }), (answer) => answer.text),
  messages: () => told(anthropic.messages.create(asked), written),
  messages_stream: () =>
    told(anthropic.messages.create({ ...asked, stream: true }), async (stream) =>
      (await all(stream)).map((event) => event.delta?.text).filter(Boolean),
    ),
  messages_tools: () => told(anthropic.messages.create({ ...asked, tools }), used),
  messages_tools_stream: async () => ({ said: used(await anthropic.messages.stream({ ...asked, tools }).finalMessage()) }),
  count_tokens: () => told(anthropic.messages.countTokens({ model, messages }), (answer) => answer.input_tokens),
};

const results = {};
for (const [name, call] of Object.entries(calls)) {
  try {
    results[name] = await call();
  } catch (error) {
    const sdk = exported.find((each) => error instanceof each.APIError) ?? {};
    const kind = Object.keys(sdk).find((each) => error.constructor === sdk[each]);
    results[name] = { error: kind ?? String(error), status: error.status };
  }
}
console.log(JSON.stringify(results));
