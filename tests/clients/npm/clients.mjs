// node clients.mjs <base URL> <client>: what the client gets, as a JSON list of base64 pictures.

import { InferenceClient } from "@huggingface/inference";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";
import OpenAI from "openai";
import Replicate from "replicate";

const [base, name] = process.argv.slice(2);
const fast = { seed: 42, num_inference_steps: 10 };

const openai = () => new OpenAI({ baseURL: `${base}/v1`, apiKey: "x", maxRetries: 0 });
const base64 = async (blob) => Buffer.from(await blob.arrayBuffer()).toString("base64");

const clients = {
  async openai() {
    const wanted = { model: "digits", prompt: "a 7", n: 2, size: "512x512", ...fast };
    return (await openai().images.generate(wanted)).data.map((image) => image.b64_json);
  },

  async openaiStream() {
    const wanted = { model: "digits", prompt: "a 7", stream: true, partial_images: 2, ...fast };
    const pictures = [];
    for await (const event of await openai().images.generate(wanted)) {
      pictures.push(event.b64_json);
    }
    return pictures;
  },

  async ai() {
    const local = createOpenAICompatible({ name: "local", baseURL: `${base}/v1`, apiKey: "x" });
    const { images } = await generateImage({
      model: local.imageModel("digits"),
      prompt: "a 7",
      n: 2,
      size: "512x512",
      providerOptions: { local: fast },
      maxRetries: 0,
    });
    return images.map((image) => image.base64);
  },

  async huggingface() {
    const wanted = { inputs: "a 7", parameters: fast };
    const pictures = [];
    for (const path of ["/generate", "/models/digits"]) {
      const client = new InferenceClient(undefined, { endpointUrl: base + path });
      pictures.push(await base64(await client.textToImage(wanted, { outputType: "blob" })));
    }
    return pictures;
  },

  async huggingfaceError() {
    const client = new InferenceClient(undefined, { endpointUrl: `${base}/generate` });
    return await client.textToImage({ inputs: "a cat" });
  },

  async replicate() {
    const client = new Replicate({ auth: "x", baseUrl: `${base}/v1` });
    const input = { prompt: "a 7", num_outputs: 2, ...fast };
    const files = await client.run("local/digits", { input });
    return Promise.all(files.map(async (file) => base64(await file.blob())));
  },

  async replicateVersion() {
    const client = new Replicate({ auth: "x", baseUrl: `${base}/v1` });
    const model = await client.models.get("local", "digits");
    const { results } = await client.models.versions.list("local", "digits");
    const { id } = await client.models.versions.get("local", "digits", results[0].id);
    const input = { prompt: "a 7", ...fast };
    const pictures = [];
    for (const version of [model.latest_version.id, id]) {
      const [file] = await client.run(`local/digits:${version}`, { input });
      pictures.push(await base64(await file.blob()));
    }
    return pictures;
  },

  async replicatePoll() {
    const client = new Replicate({ auth: "x", baseUrl: `${base}/v1` });
    const input = { prompt: "a 7", ...fast };
    const begun = await client.predictions.create({ model: "local/digits", input });
    const ended = await client.wait(begun, { interval: 50 });
    const listed = [];
    for await (const page of client.paginate(client.predictions.list)) listed.push(...page);
    if (begun.status !== "starting" || !listed.some(({ id }) => id === begun.id)) {
      throw new Error(JSON.stringify([begun, listed]));
    }
    return ended.output.map((uri) => uri.split(",")[1]);
  },

  async replicateCancel() {
    const client = new Replicate({ auth: "x", baseUrl: `${base}/v1` });
    const input = { prompt: "a 7", num_inference_steps: 1000, num_outputs: 8 };
    const begun = await client.predictions.create({ model: "local/digits", input });
    const { status } = await client.predictions.cancel(begun.id);
    throw new Error(`${status}, then ${(await client.predictions.get(begun.id)).status}`);
  },

  async replicateError() {
    const client = new Replicate({ auth: "x", baseUrl: `${base}/v1` });
    return await client.run("local/digits", { input: { prompt: "a cat" } });
  },
};

try {
  console.log(JSON.stringify(await clients[name]()));
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
