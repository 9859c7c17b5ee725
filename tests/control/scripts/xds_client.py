"""An unmodified grpcio client of an `xds:///` target. Reads one command a line, answers each with one line of JSON.

    call TARGET METHOD COUNT [KEY=VALUE…]    who answered how often, and which errors there were
"""

import collections
import json
import sys

import grpc

channels = {}
for line in sys.stdin:
    _, target, method, count, *metadata = line.split()
    if target not in channels:
        channels[target] = grpc.insecure_channel(target)
    call = channels[target].unary_unary(f"/test.Who/{method}")
    metadata = [tuple(pair.split("=")) for pair in metadata]
    answers = collections.Counter()
    for _ in range(int(count)):
        try:
            answers[call(b"", timeout=10, metadata=metadata).decode()] += 1
        except grpc.RpcError as error:
            answers[f"{error.code().name}: {error.details()}"] += 1
    print(json.dumps(answers), flush=True)
