#!/usr/bin/env python3
"""Adds two vectors on the GPU of a running `turnstile serve`, over capability RPC.

    pip install pycapnp
    cargo run --release -- serve policy/examples/rpc.json &
    python3 mediator/frontends/capnp/examples/vecadd.py /tmp/turnstile-rpc-alice.sock
"""

import array
import asyncio
import mmap
import os
import socket
import sys

import capnp

HERE = os.path.dirname(os.path.abspath(__file__))
schema = capnp.load(os.path.join(HERE, "..", "turnstile.capnp"))
PTX = os.path.join(HERE, "..", "..", "..", "..", "tests", "kernels", "ptx", "vecadd.ptx")
N = 5000


def fetch(region):
    """The memory of a mapped buffer: its file comes over a second socket, for the token."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(region.socket)
        connection.sendall(region.token)
        _, fds, _, _ = socket.recv_fds(connection, 1, 1)
    if not fds:
        raise RuntimeError("no descriptor for this token")
    start = region.offset % mmap.ALLOCATIONGRANULARITY
    memory = mmap.mmap(fds[0], start + region.bytes, offset=region.offset - start)
    os.close(fds[0])
    return memoryview(memory)[start : start + region.bytes]


async def vector(session, values):
    """A host-visible buffer and its memory, filled."""
    buffer = session.createBuffer(bytes=4 * N, usage="host").buffer
    memory = fetch((await buffer.map()).region)
    memory[:] = array.array("f", values).tobytes()
    return buffer, memory


async def run(path):
    stream = await capnp.AsyncIoStream.create_unix_connection(path=path)
    manager = capnp.TwoPartyClient(stream).bootstrap().cast_as(schema.GpuDeviceManager)
    for device in (await manager.listDevices()).devices:
        print(f"device {device.index}: {device.name}, {device.memoryBytes >> 20} MiB for us")
    session = manager.openDevice(index=0).session
    a, _ = await vector(session, (float(i) for i in range(N)))
    b, _ = await vector(session, (3.0 * i for i in range(N)))
    c, result = await vector(session, (0.0 for _ in range(N)))

    with open(PTX, "rb") as file:
        program = session.loadProgram(image=file.read(), format="ptx").program
    kernel = (await program.kernel(entry="vecadd")).kernel
    fence = (await session.createFence()).fence
    await session.launchKernel(
        kernel=kernel,
        grid={"x": (N + 255) // 256},
        block={"x": 256},
        arguments=[
            {"buffer": {"buffer": a, "access": "read"}},
            {"buffer": {"buffer": b, "access": "read"}},
            {"buffer": {"buffer": c, "access": "write"}},
            {"u32": N},
        ],
        fence=fence,
    )
    if not (await fence.wait(timeoutNanos=10_000_000_000)).ok:
        raise RuntimeError("the kernel takes more than 10 s")
    sums = array.array("f", result.tobytes())
    wrong = [i for i in range(N) if sums[i] != 4.0 * i]
    if wrong:
        raise RuntimeError(f"element {wrong[0]} is {sums[wrong[0]]}")
    print(f"vecadd: {N} elements right")

    # What is not allowed is an exception with a word and a reason.
    try:
        await session.createBuffer(bytes=1 << 50, usage="device")
    except capnp.KjException as error:
        print(f"as it should be: {error.description}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(capnp.run(run(sys.argv[1])))
