"""A server that knows nothing of Lighter: gives requests back, with what it is asked to do in their path.

    python3 native.py PORT
"""

import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        # Piece by piece, as it comes: whoever sends the next one has seen the one before.
        self.send_response(201)
        self.send_header("X-Own", "mine")
        self.send_header("X-Lighter-Status", "CS_SUCCESS")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        left = int(self.headers["Content-Length"])
        while left:
            piece = self.rfile.read1(left)
            left -= len(piece)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def do_GET(self):
        if self.path.startswith("/echo/die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.path.startswith("/echo/sleep"):
            time.sleep(600)
        if self.path.startswith("/echo/body"):
            # In chunks, which this module leaves to whoever uses it.
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            fields = [name for name in self.headers if name.lower().startswith("x-lighter-")]
            self.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n%s %s" % (body, str(fields).encode()))
            self.close_connection = True
            return
        if self.path.startswith("/echo/half"):
            self.send_response(200)
            if not self.path.endswith("/unsized"):
                self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"half")
            self.wfile.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        body = f"{os.getpid()} {self.path} {self.headers.get('X-Mine')} {os.environ.get('MODEL')}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/x-own")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


# It may take a while until it is ready.
time.sleep(float(os.environ.get("READY_AFTER", "0")))
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
