// A world model in onnxruntime-web: what `play/static_shape_step.py` exported, step after step. Used by the page's worker;
// runs wherever the runtime does.

const PREDICT = -1; // in place of the ids of a known frame

export class World {
  // manifest: world.json. session: of model.onnx. Tensor: the runtime's class.
  constructor(manifest, session, Tensor) {
    this.manifest = manifest;
    this.session = session;
    this.Tensor = Tensor;
    this.unknown = this.#ids(new Array(this.#numTokens).fill(PREDICT));
  }

  get #numTokens() {
    return this.manifest.grid * this.manifest.grid;
  }

  #ids(values) {
    return new this.Tensor("int32", Int32Array.from(values), [1, this.manifest.grid, this.manifest.grid]);
  }

  // Forget everything and take the frames of a start: ids of each frame, and the actions between them.
  async begin(start) {
    this.#release(this.state ?? {});
    this.state = {};
    for (const [name, { type, shape }] of Object.entries(this.manifest.state)) {
      const count = shape.reduce((product, size) => product * size, 1);
      const data = type === "int32" ? new Int32Array(count) : new Float32Array(count);
      this.state[name] = new this.Tensor(type, data, shape);
    }
    for (let i = 0; i < start.ids.length; i++) {
      await this.#run(i > 0 ? start.actions[i - 1] : 0, this.#ids(start.ids[i]));
    }
  }

  // The next frame under an action: RGBA pixels and token ids.
  step(action) {
    return this.#run(action, this.unknown);
  }

  async #run(action, known) {
    const feeds = { known, action: new this.Tensor("int32", Int32Array.of(action), [1]), ...this.state };
    if (this.manifest.noise) feeds.noise = this.#noise();
    const result = await this.session.run(feeds);
    this.#release(this.state);
    for (const name of Object.keys(this.manifest.state)) this.state[name] = result[`next_${name}`];
    return { pixels: new Uint8ClampedArray(result.pixels.data), ids: this.state.ids.data };
  }

  #noise() {
    const shape = this.manifest.noise;
    const length = shape.reduce((product, size) => product * size, 1);
    // Math.random() is below 1, but its nearest float32 may be 1.
    const data = Float32Array.from({ length }, () => Math.min(Math.random(), 1 - 2 ** -24));
    return new this.Tensor("float32", data, shape);
  }

  // What lies in a GPU's memory is freed by hand.
  #release(tensors) {
    for (const tensor of Object.values(tensors)) if (tensor.location === "gpu-buffer") tensor.dispose();
  }
}

// Load a folder that `python run.py export` wrote. backend: "wasm" or "webgpu". base: the folder's URL, with a slash.
export async function load(base, backend, numThreads) {
  const manifest = await (await fetched(`${base}world.json`)).json();
  const ort = await import(`${base}runtime/ort.${backend}.bundle.min.mjs`);
  ort.env.wasm.wasmPaths = { wasm: `${base}runtime/${manifest.runtime[backend]}` };
  ort.env.wasm.numThreads = numThreads;
  const model = new Uint8Array(await (await fetched(`${base}model.onnx`)).arrayBuffer());
  const options = { executionProviders: [backend] };
  if (backend === "webgpu") {
    const caches = Object.keys(manifest.state).filter((name) => manifest.state[name].type === "float32");
    options.preferredOutputLocation = Object.fromEntries(caches.map((name) => [`next_${name}`, "gpu-buffer"]));
  }
  return new World(manifest, await ort.InferenceSession.create(model, options), ort.Tensor);
}

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response;
}
