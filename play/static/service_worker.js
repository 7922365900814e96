// Keeps the page's files, so that it plays offline, and adds the headers that allow threads where the server sends none.

const CACHE = "world-model";

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { request } = event;
  if (request.method === "GET" && new URL(request.url).origin === self.location.origin) {
    event.respondWith(answer(request));
  }
});

// From the network, so that a new export is seen at once; from the cache where there is none.
async function answer(request) {
  let response;
  try {
    // Else the browser's own cache would answer for days, without asking whether there is a new export.
    response = await fetch(request, { cache: "no-cache" });
  } catch (error) {
    const kept = await caches.match(request, { cacheName: CACHE, ignoreSearch: true });
    if (!kept) throw error;
    return isolated(kept);
  }
  if (response.status === 200) await keep(request, response.clone());
  return isolated(response);
}

// What there is no space for is fetched each time.
async function keep(request, response) {
  try {
    await (await caches.open(CACHE)).put(request, response);
  } catch (error) {
    console.warn(`not kept for offline play: ${request.url}: ${error.message}`);
  }
}

function isolated(response) {
  if (response.status === 0) return response;
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  headers.set("Cross-Origin-Resource-Policy", "same-origin");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}
