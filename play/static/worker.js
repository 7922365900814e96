// Runs the model beside the page, which stays responsive. Messages: {load}, {begin}, {step}; each is answered in order.

import { load } from "./engine.js";

let world;
let queue = Promise.resolve();

const handlers = {
  async load({ backend, numThreads }) {
    world = await load(new URL("./", self.location).href, backend, numThreads);
    return { manifest: world.manifest };
  },
  async begin({ start }) {
    await world.begin(world.manifest.starts[start]);
    return {};
  },
  async step({ action }) {
    const began = performance.now();
    const { pixels, ids } = await world.step(action);
    return { pixels, ids, milliseconds: performance.now() - began };
  },
};

self.onmessage = ({ data }) => {
  queue = queue.then(async () => {
    try {
      self.postMessage({ call: data.call, ...(await handlers[data.do](data)) });
    } catch (error) {
      self.postMessage({ call: data.call, error: String(error?.message ?? error) });
    }
  });
};
