"""Usage: websocket_client.py URL. Ends with 0 when every message came back as it went."""

import asyncio
import sys

import websockets


async def main():
    async with websockets.connect(sys.argv[1], max_size=None, open_timeout=20, proxy=None) as socket:
        for size in [0, 1, 125, 126, 65535, 65536, 1_000_000]:
            for message in ["t" * size, b"b" * size]:
                await socket.send(message)
                assert await socket.recv() == message
        await (await socket.ping())
    # Many at once, each kept a while.
    sockets = await asyncio.gather(*(websockets.connect(sys.argv[1], proxy=None) for _ in range(50)))
    for number, socket in enumerate(sockets):
        await socket.send(str(number))
    for number, socket in enumerate(sockets):
        assert await socket.recv() == str(number)
        await socket.close()
        assert socket.close_code == 1000


asyncio.run(main())
