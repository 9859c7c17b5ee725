"""How long a server that speaks first takes to greet, in milliseconds: the median of some connections.
Usage: greeting.py HOST PORT [stay]

With `stay` it goes on until it is ended, so that its sidecar can be asked what it counted."""

import signal
import socket
import statistics
import sys
import time

times = []
for _ in range(15):
    start = time.monotonic()
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as stream:
        assert stream.recv(4096), "a greeting"
    times.append(1000 * (time.monotonic() - start))
print(f"{statistics.median(times):.2f}", flush=True)
if len(sys.argv) > 3:
    signal.pause()
