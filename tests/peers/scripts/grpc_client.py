"""Calls of every kind through whatever lies between. Usage: grpc_client.py TARGET CALLS. Ends with 0 when all was as it should be."""

import sys
import time
from concurrent import futures

import grpc

target, calls = sys.argv[1], int(sys.argv[2])
channel = grpc.insecure_channel(target)
unary = channel.unary_unary("/test.All/Unary")


def code_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


answer, call = unary.with_call(b"hello", timeout=20)
assert answer == b"hello"
trailers = dict(call.trailing_metadata())
assert trailers["x-end"] == "whole", trailers
assert trailers["x-request-id-seen"], "the sidecar names each request"
big = b"x" * 3_000_000
assert unary(big, timeout=20) == big
assert code_of(lambda: unary(b"fail", timeout=20)) == grpc.StatusCode.FAILED_PRECONDITION
print("unary")

parts = [b"x" * 1000] * 100
assert channel.stream_unary("/test.All/SumUp")(iter(parts), timeout=20) == b"100000"
assert list(channel.unary_stream("/test.All/Count")(b"100", timeout=20)) == [str(n).encode() for n in range(100)]
assert list(channel.stream_stream("/test.All/Echo")(iter(parts), timeout=20)) == parts
# One at a time: each answer comes before the next request is made.
stream = channel.stream_stream("/test.All/Echo")
seen = []


def asking():
    for number in range(20):
        while len(seen) < number:
            time.sleep(0.001)
        yield str(number).encode()


for part in stream(asking(), timeout=20):
    seen.append(part)
assert seen == [str(n).encode() for n in range(20)]
print("streams")

start = time.monotonic()
assert code_of(lambda: unary(b"sleep 5", timeout=0.3)) == grpc.StatusCode.DEADLINE_EXCEEDED
assert time.monotonic() - start < 4
print("deadlines")

endless = channel.unary_stream("/test.All/Endless")
running = [endless(b"") for _ in range(3)]
for call in running:
    assert next(call) == b"more"
for call in running:
    call.cancel()
watched = channel.unary_unary("/test.All/Watched")
while int(watched(b"", timeout=20)) < 3:
    assert time.monotonic() - start < 60, "the server hears of a cancelled call"
    time.sleep(0.02)
print("cancellation")

with futures.ThreadPoolExecutor(100) as pool:
    waiting = [unary.future(f"call {number}".encode(), timeout=60) for number in range(calls)]
    for number, call in enumerate(waiting):
        assert call.result() == f"call {number}".encode()
print("parallel")
