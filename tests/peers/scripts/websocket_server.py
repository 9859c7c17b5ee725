"""Echoes text and binary messages. Usage: websocket_server.py PORT"""

import asyncio
import sys

import websockets


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    async with websockets.serve(echo, "0.0.0.0", int(sys.argv[1]), max_size=None):
        print("ready", flush=True)
        await asyncio.get_running_loop().create_future()


asyncio.run(main())
