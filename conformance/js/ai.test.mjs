// The AI SDK with @ai-sdk/openai-compatible, and its Anthropic provider.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import {
  APICallError,
  embedMany,
  experimental_generateImage as generateImage,
  generateObject,
  generateText,
  stepCountIs,
  streamText,
  tool,
} from "ai";
import { z } from "zod";
import { gateway, SAID } from "./gateway.mjs";

const provider = createOpenAICompatible({
  name: "penstock",
  baseURL: gateway.v1,
  apiKey: gateway.key,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const chat = provider(gateway.chat);
const once = { maxRetries: 0 };
const weather = (execute) =>
  tool({ description: "The weather.", inputSchema: z.object({ city: z.string() }), execute });

test("generateText", async () => {
  const answer = await generateText({ model: chat, prompt: SAID, ...once });
  assert.equal(answer.text, SAID);
  assert.equal(answer.finishReason, "stop");
  assert.ok(answer.usage.totalTokens > 0);
});

test("generateText on the real engine", async () => {
  const model = provider(gateway.realChat);
  const answer = await generateText({ model, prompt: SAID, maxOutputTokens: 8, ...once });
  assert.ok(answer.text.length > 0);
});

test("streamText", async () => {
  const answer = streamText({ model: chat, prompt: SAID, ...once });
  let said = "";
  for await (const part of answer.textStream) said += part;
  assert.equal(said, SAID);
  assert.ok((await answer.usage).outputTokens > 0);
});

test("a tool is called and its result goes back", async () => {
  let asked = 0;
  const answer = await generateText({
    model: chat,
    prompt: SAID,
    tools: { weather: weather(async () => { asked += 1; return "sunny"; }) },
    toolChoice: "required",
    stopWhen: stepCountIs(1),
    ...once,
  });
  assert.equal(asked, 1);
  assert.equal(answer.toolCalls[0].toolName, "weather");
  assert.equal(answer.toolResults[0].output, "sunny");
});

test("a tool call in a stream", async () => {
  const answer = streamText({
    model: chat,
    prompt: SAID,
    tools: { weather: weather() },
    toolChoice: "required",
    ...once,
  });
  const calls = await answer.toolCalls;
  assert.equal(calls[0].toolName, "weather");
  assert.equal(typeof calls[0].input.city, "string");
});

test("generateObject follows a schema", async () => {
  const schema = z.object({ city: z.string(), people: z.number() });
  const answer = await generateObject({ model: chat, schema, prompt: SAID, ...once });
  assert.equal(typeof answer.object.people, "number");
});

for (const name of ["embeddings", "realEmbeddings"]) {
  test(`embedMany with ${name}`, async () => {
    const model = provider.textEmbeddingModel(gateway[name]);
    const answer = await embedMany({ model, values: ["a cat", "a kitten"], ...once });
    assert.equal(answer.embeddings.length, 2);
    assert.ok(answer.embeddings[0].length > 8);
  });
}

test("generateImage", async () => {
  const model = provider.imageModel("tiny-image");
  const answer = await generateImage({ model, prompt: SAID, size: "256x256", ...once });
  assert.equal(answer.image.mediaType, "image/png");
});

test("completions", async () => {
  const model = provider.completionModel(gateway.chat);
  assert.match((await generateText({ model, prompt: SAID, ...once })).text, /Water turns the wheel/);
});

test("Anthropic's provider, whole and streamed", async () => {
  const model = createAnthropic({ baseURL: gateway.v1, apiKey: gateway.key })(gateway.chat);
  assert.equal((await generateText({ model, prompt: SAID, ...once })).text, SAID);
  let said = "";
  for await (const part of streamText({ model, prompt: SAID, ...once }).textStream) said += part;
  assert.equal(said, SAID);
});

async function refusal(model, more = {}) {
  try {
    await generateText({ model, prompt: SAID, ...once, ...more });
  } catch (error) {
    assert.ok(APICallError.isInstance(error), String(error));
    return error;
  }
  throw new assert.AssertionError({ message: "nothing was refused" });
}

test("errors: bad key, unknown model, bad body", async () => {
  const stranger = createOpenAICompatible({
    name: "penstock", baseURL: gateway.v1, apiKey: "sk-penstock-wrong",
  });
  const badKey = await refusal(stranger(gateway.chat));
  assert.equal(badKey.statusCode, 401);
  assert.equal(badKey.isRetryable, false);
  assert.equal((await refusal(provider("no-such-model"))).statusCode, 404);
  const badBody = await refusal(chat, { temperature: 9 });
  assert.equal(badBody.statusCode, 400);
  assert.match(badBody.message, /temperature/);
});
