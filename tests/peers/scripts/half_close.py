"""A protocol that no proxy knows: the caller sends, says that it is done, and only then is told how much came.
Usage: half_close.py serve PORT | half_close.py call HOST PORT"""

import socket
import socketserver
import sys


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        total = 0
        while part := self.request.recv(65536):
            total += len(part)
        self.request.sendall(f"{total} bytes".encode())


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True


if sys.argv[1] == "serve":
    print("ready", flush=True)
    Server(("0.0.0.0", int(sys.argv[2])), Handler).serve_forever()
for size in [1, 1000, 10_000_000]:
    with socket.create_connection((sys.argv[2], int(sys.argv[3])), timeout=20) as stream:
        stream.sendall(b"\x00" * size)
        stream.shutdown(socket.SHUT_WR)
        answer = b""
        while part := stream.recv(65536):
            answer += part
    assert answer == f"{size} bytes".encode(), answer
