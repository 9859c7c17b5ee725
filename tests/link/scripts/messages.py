"""Messages that say which one they are: a number, the SHA-256 of what follows, and what follows."""

import hashlib
import json
import os
import signal
import struct
import threading

HEAD = struct.Struct(">Q32s")
BODY_BYTES = 60_000


def make(stream, number):
    """Message `number` of a stream. No two are the same."""
    body = hashlib.shake_128(f"{stream} {number}".encode()).digest(BODY_BYTES)
    return HEAD.pack(number, hashlib.sha256(body).digest()) + body


def count(size):
    """So many messages carry `size` bytes."""
    return -(-size // BODY_BYTES)


class Way:
    """One direction of a stream: every message once, in order, and as it was made."""

    def __init__(self):
        self.messages = 0
        self.sha256 = hashlib.sha256()

    def take(self, message):
        number, digest = HEAD.unpack_from(message)
        if number != self.messages:
            raise ValueError(f"message {number} where {self.messages} was due")
        if hashlib.sha256(message[HEAD.size :]).digest() != digest:
            raise ValueError(f"message {number} is not what was sent")
        self.messages += 1
        self.sha256.update(message)

    def is_all(self, messages, sha256):
        """Whether it is what the other end says of it."""
        return (self.messages, self.sha256.hexdigest()) == (messages, sha256)


class Names:
    """The names of all streams that came to a server. One that comes twice was doubled on the way."""

    def __init__(self):
        self.known = set()
        self.lock = threading.Lock()

    def enter(self, name):
        with self.lock:
            if name in self.known:
                raise ValueError(f"{name} came twice")
            self.known.add(name)


class Client:
    """Until the process is told to end: one stream after the other, each with a name of its own."""

    def __init__(self):
        self.streams = 0
        self.messages = 0
        self.ends = False
        self.lock = threading.Lock()
        # A handler would run in the main thread, which waits for others and now and then does not notice. Who comes later
        # blocks the signal as well.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=self._await_end, daemon=True).start()

    def _await_end(self):
        signal.sigwait({signal.SIGTERM})
        self.ends = True

    def names(self):
        while not self.ends:
            with self.lock:
                self.streams += 1
                name = f"{os.getpid()}-{self.streams}"
            yield name

    def carried(self, messages):
        with self.lock:
            self.messages += messages
            print(json.dumps({"streams": self.streams, "messages": self.messages}), flush=True)
