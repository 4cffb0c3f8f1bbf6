// What every client's tests are told: where the gateway is, whose key, which models.
export const gateway = {
  url: process.env.CONFORMANCE_URL,
  v1: `${process.env.CONFORMANCE_URL}/v1`,
  key: process.env.CONFORMANCE_KEY,
  chat: process.env.CONFORMANCE_CHAT,
  realChat: process.env.CONFORMANCE_REAL_CHAT,
  embeddings: process.env.CONFORMANCE_EMBEDDINGS,
  realEmbeddings: process.env.CONFORMANCE_REAL_EMBEDDINGS,
};
export const SAID = "Water turns the wheel";
