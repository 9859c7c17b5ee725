"""Connects, reads what the server says first, and stays until it is ended. Usage: hold.py HOST PORT"""

import signal
import socket
import sys

with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as stream:
    assert stream.recv(4096), "a greeting"
    signal.pause()
