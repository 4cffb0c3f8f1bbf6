// OpenRouter's own SDK, which checks every answer against its schemas.
import assert from "node:assert/strict";
import { test } from "node:test";
import { OpenRouter } from "@openrouter/sdk";
import { gateway, SAID } from "./gateway.mjs";

const client = (apiKey = gateway.key) =>
  new OpenRouter({ apiKey, serverURL: gateway.v1, retryConfig: { strategy: "none" } });
const messages = [{ role: "user", content: SAID }];
const send = (more, key) =>
  client(key).chat.send({ chatRequest: { model: gateway.chat, messages, ...more } });

test("chat", async () => {
  const answer = await send({ stream: false });
  assert.equal(answer.choices[0].message.content, SAID);
  assert.ok(answer.usage.totalTokens > 0);
});

test("chat with a provider object and a suffix", async () => {
  const answer = await send({
    model: `${gateway.chat}:floor`,
    provider: { sort: "price", allowFallbacks: true },
    stream: false,
  });
  assert.equal(answer.choices[0].message.content, SAID);
});

test("a stream", async () => {
  let said = "";
  for await (const chunk of await send({ stream: true })) {
    said += chunk.choices[0]?.delta?.content ?? "";
  }
  assert.equal(said, SAID);
});

test("a tool call", async () => {
  const parameters = { type: "object", properties: { city: { type: "string" } } };
  const tools = [{ type: "function", function: { name: "weather", parameters } }];
  const answer = await send({ stream: false, tools, toolChoice: "required" });
  assert.equal(answer.choices[0].message.toolCalls[0].function.name, "weather");
});

test("embeddings", async () => {
  const requestBody = { model: gateway.realEmbeddings, input: ["a cat", "a kitten"] };
  const answer = await client().embeddings.generate({ requestBody });
  assert.equal(answer.data.length, 2);
});

test("models", async () => {
  const answer = await client().models.list({});
  const ids = (answer.data ?? answer.result.data).map((model) => model.id);
  assert.ok(ids.includes(gateway.chat));
});

test("errors: bad key, unknown model, bad body", async () => {
  const status = (wanted) => (error) => error.statusCode === wanted;
  await assert.rejects(send({ stream: false }, "sk-penstock-wrong"), status(401));
  await assert.rejects(send({ model: "no-such-model", stream: false }), status(404));
  await assert.rejects(send({ messages: [], stream: false }), status(400));
});
