"""A web server on this machine that behaves as well or as badly as a test wants."""

import contextlib
import http.server
import re
import threading


class Site:
    """What is served, and how.

    Attributes:
        files: content by path.
        break_after: the next answers end after so many bytes each, as broken connections do; one is used up an answer.
        ranges: whether `Range` is understood.
        from_start: whether a range is answered as one, but from the first byte on.
        lengths: whether `Content-Length` is sent, or what is sent in its place.
        kind: the `Content-Type`.
        asked: (path, Range header or None) of every request.
    """

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.break_after: list[int] = []
        self.ranges, self.from_start = True, False
        self.lengths: bool | str = True
        self.kind = "application/octet-stream"
        self.asked: list[tuple[str, str | None]] = []
        self.url = ""


def _handler(site: Site) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            site.asked.append((self.path, wanted))
            content = site.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges else 0
            start = 0 if site.from_start else start
            if wanted and site.ranges and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206 if wanted and site.ranges else 200)
            self.send_header("Content-Type", site.kind)
            if site.lengths:
                right = str(len(content) - start)
                self.send_header("Content-Length", site.lengths if isinstance(site.lengths, str) else right)
            if wanted and site.ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            rest = content[start:]
            self.wfile.write(rest[: site.break_after.pop(0)] if site.break_after else rest)

        def log_message(self, *_):
            pass

    return Handler


@contextlib.contextmanager
def serve():
    """Yields a Site that is on the air; `site.url` is its address."""
    site = Site()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
