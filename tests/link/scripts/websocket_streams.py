"""WebSockets that carry messages both ways at once. Usage: websocket_streams.py serve PORT | call ADDRESS BYTES

The server sends back what comes. The client ends with SIGTERM, and with 0 when every message came back once and whole."""

import asyncio
import json
import sys

import websockets

import messages

AT_ONCE = 2
NAMES = messages.Names()


async def echo(socket):
    NAMES.enter(socket.request.path)
    way = messages.Way()
    async for message in socket:
        if message == "end":
            await socket.send(json.dumps([way.messages, way.sha256.hexdigest()]))
            continue
        way.take(message)
        await socket.send(message)


async def serve(port):
    async with websockets.serve(echo, "127.0.0.1", port, max_size=None, compression=None, ping_timeout=None):
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


async def send(socket, name, count):
    for number in range(count):
        await socket.send(messages.make(name, number))
    await socket.send("end")


async def one_after_the_other(client, address, size):
    count = messages.count(size)
    for name in client.names():
        options = {"max_size": None, "compression": None, "ping_timeout": None, "open_timeout": 20, "proxy": None}
        async with websockets.connect(f"ws://{address}/{name}", **options) as socket:
            sending = asyncio.create_task(send(socket, name, count))
            way = messages.Way()
            while way.messages < count:
                way.take(await socket.recv())
            await sending
            assert way.is_all(*json.loads(await socket.recv())), name
        assert socket.close_code == 1000, socket.close_code
        client.carried(way.messages)


async def call(address, size):
    client = messages.Client()
    await asyncio.gather(*(one_after_the_other(client, address, size) for _ in range(AT_ONCE)))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", port]:
            asyncio.run(serve(int(port)))
        case ["call", address, size]:
            asyncio.run(call(address, int(size)))
