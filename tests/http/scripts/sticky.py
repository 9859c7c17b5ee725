"""Three gRPC servers, and a client that reaches them through a sidecar and stays with one by what its answers say.

Says where the servers listen, reads the sidecar's address, then obeys lines: `call N` makes N calls of one session, and `stop
PORT` stops a server. Each call answers with its server's port."""

import sys
from concurrent import futures

import grpc


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    port = server.add_insecure_port("127.0.0.1:0")
    answer = grpc.unary_unary_rpc_method_handler(lambda request, context: str(port).encode())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Shop", {"Buy": answer}),))
    server.start()
    return port, server


servers = dict(serve() for _ in range(3))
print(*servers, flush=True)
channel = grpc.insecure_channel(sys.stdin.readline().strip())
buy = channel.unary_unary("/shop.Shop/Buy")
session = []
for line in sys.stdin:
    word, number = line.split()
    if word == "stop":
        servers[int(number)].stop(0).wait()
        print("stopped", flush=True)
        continue
    answers = []
    for _ in range(int(number)):
        answer, call = buy.with_call(b"", metadata=session, timeout=10)
        said = [("x-cart", value) for name, value in call.initial_metadata() if name == "x-cart"]
        session = said or session
        answers.append(answer.decode())
    print(*answers, flush=True)
