"""The playground's modules alone, in a browser that obeys the page's own policy."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from selenium.webdriver import Chrome

from tests.e2e import browser
from tests.e2e.browser import run
from tests.e2e.live import ROOT

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
NASTY = (
    'it\'s "quoted" \\ and \\\\',
    "$HOME `id` $(id) ${PATH} !! %PATH% & | ; > < * ? ~ #",
    "two\nlines\r\n\ttab, and an end\n",
    "Negative prompt: none\n\\Negative prompt: two\n\\\\Negative prompt: three",
    "ein Bär, 熊, 🐻‍❄️, ne\u0301e\u202e backwards \u2028 \ufeff\x7f\x85",
    "a: b, Steps: 7, \"c, d\": 'e'",
    "'''\n\"\"\"\n</script><!-- {0} {x} %s \\u0041 \\x41 \\n",
    "-d @/etc/passwd",
)


class _Files(SimpleHTTPRequestHandler):
    """The page's files, and an empty page that has its policy."""

    def do_GET(self) -> None:
        if self.path != "/":
            super().do_GET()
            return
        body = b"<!doctype html><title>parts</title><link rel=icon href=data:,>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-security-policy", POLICY)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def blank_page(profile: Path) -> Iterator[Chrome]:
    """A browser at an empty page, on whose console nothing may be said."""
    files = partial(_Files, directory=str(ROOT / "app/page"))
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with browser.chromium(profile) as driver:
                driver.get(f"http://127.0.0.1:{server.server_port}/")
                yield driver
                assert driver.get_log("browser") == []
        finally:
            server.shutdown()
            thread.join()


def calling(page: Chrome, module: str, body: str, *arguments: object) -> Any:
    """What `body` gives, with a module's exports as `it` and the arguments as `args`."""
    script = f"async (...args) => {{ const it = await import('/js/{module}'); {body} }}"
    found = run(page, script, *arguments)
    assert not (isinstance(found, str) and found.startswith("failed: ")), found
    return found
