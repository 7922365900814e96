"""How fast an exported page plays in headless Chromium, by the clock.

    python run.py export target=<folder>
    python -m benchmarks.play_page <folder>

Each tab plays as fast as it can (`?fast`), with the right arrow held; then at the game's pace. Needs playwright and
Chromium. `--backend webgpu --software-webgpu` runs WebGPU on the CPU, which says that it works, not how fast it is.
"""

import functools
import http.server
import os
import shutil
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.command_line import make_parser, run_command
from data_generation.arguments import read_path

# When each frame was shown, in milliseconds.
WATCH = """() => {
    window.shown = [];
    const screen = document.getElementById('screen');
    new MutationObserver(() => window.shown.push(performance.now()))
        .observe(screen, { attributes: true, attributeFilter: ['data-frames'] });
}"""
FRAMES = "Number(document.getElementById('screen').dataset.frames)"
SOFTWARE_WEBGPU = ["--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
FILLING = 20  # frames before anything is measured: they fill the history


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Logs no requests."""

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def open_tab(browser: Any, address: str) -> Any:
    """A tab that plays, its history full."""
    tab = browser.new_context().new_page()
    tab.set_default_timeout(300_000)
    tab.goto(address)
    tab.wait_for_function(f"{FRAMES} === 0")
    tab.keyboard.down("ArrowRight")
    tab.wait_for_function(f"{FRAMES} > {FILLING}")
    return tab


def measure(browser: Any, address: str, count: int, seconds: float) -> str:
    """Frames/s of the slowest of some tabs, and the time between frames."""
    tabs = [open_tab(browser, address) for _ in range(count)]
    for tab in tabs:
        tab.evaluate(WATCH)
    time.sleep(seconds)
    shown = [np.array(tab.evaluate("window.shown")) for tab in tabs]
    backend = tabs[0].inner_text("#runtime")
    for tab in tabs:
        tab.context.close()
    rates = [1000 * (len(times) - 1) / (times[-1] - times[0]) for times in shown]
    median, late = np.percentile(np.concatenate([np.diff(times) for times in shown]), [50, 95])
    return f"{min(rates):.1f} frames/s each, {median:.0f} ms from frame to frame (95 %: {late:.0f} ms); {backend}"


def run(argv: Sequence[str]) -> None:
    """Measure all combinations that are asked for."""
    from playwright.sync_api import sync_playwright

    parser = make_parser("play_page", __doc__)
    parser.add_argument("folder", type=read_path)
    parser.add_argument("--tabs", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--backend", choices=["wasm", "webgpu"], default="wasm")
    parser.add_argument("--software-webgpu", action="store_true", help="Chromium's WebGPU on the CPU")
    args = parser.parse_args(argv)
    handler = functools.partial(Quiet, directory=args.folder)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ["--no-sandbox", *(SOFTWARE_WEBGPU if args.software_webgpu else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for threads in args.threads:
            for count in args.tabs:
                for pace in ("fast", "paced"):
                    query = f"?threads={threads}&backend={args.backend}&{pace}"
                    said = measure(browser, f"http://127.0.0.1:{server.server_port}/{query}", count, args.seconds)
                    print(f"threads {threads}, tabs {count}, {pace}: {said}", flush=True)
        browser.close()
    server.shutdown()
    print("load average of the machine:", *(f"{load:.1f}" for load in os.getloadavg()))


if __name__ == "__main__":
    sys.exit(run_command(run))
