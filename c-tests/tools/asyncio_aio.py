#!/usr/bin/env python3
"""Asynchronous file I/O for asyncio, by an eventfd: an example, and a test of itself.

    asyncio_aio.py LIBRARY DIRECTORY

copies a file in DIRECTORY, sixteen blocks at a time, through libaio_posix.so loaded with ctypes, and compares. Any event
loop does it like this: it watches one eventfd, and asks which requests are complete when that is readable.
"""

import asyncio
import ctypes
import errno
import os
import sys

SIGEV_AIO_EVENTFD = 0x0A10


class sigevent(ctypes.Structure):
    _fields_ = [("value", ctypes.c_void_p), ("signo", ctypes.c_int), ("notify", ctypes.c_int), ("rest", ctypes.c_uint64 * 6)]


class aiocb(ctypes.Structure):
    """struct aiocb of <aio.h>, on Linux with 64 bits."""

    _fields_ = [
        ("fildes", ctypes.c_int),
        ("lio_opcode", ctypes.c_int),
        ("reqprio", ctypes.c_int),
        ("buf", ctypes.c_void_p),
        ("nbytes", ctypes.c_size_t),
        ("sigevent", sigevent),
        ("private", ctypes.c_uint64 * 4),
        ("offset", ctypes.c_int64),
        ("reserved", ctypes.c_uint64 * 4),
    ]


assert ctypes.sizeof(aiocb) == 168


class AsyncFiles:
    """Requests of one event loop. Make it in a coroutine of the loop."""

    def __init__(self, library):
        self.library = ctypes.CDLL(library, use_errno=True)
        self.library.aio_return.restype = ctypes.c_ssize_t
        self.loop = asyncio.get_running_loop()
        self.pending = {}
        self.eventfd = ctypes.CDLL(None, use_errno=True).eventfd(0, os.O_NONBLOCK | os.O_CLOEXEC)
        self.loop.add_reader(self.eventfd, self._completed)

    def close(self):
        self.loop.remove_reader(self.eventfd)
        os.close(self.eventfd)

    def _completed(self):
        os.read(self.eventfd, 8)
        for address, (request, _, future) in list(self.pending.items()):
            error = self.library.aio_error(ctypes.byref(request))
            if error == errno.EINPROGRESS:
                continue
            del self.pending[address]
            result = self.library.aio_return(ctypes.byref(request))
            if future.cancelled():
                continue
            if error:
                future.set_exception(OSError(error, os.strerror(error)))
            else:
                future.set_result(result)

    async def _run(self, start, fd, buffer, count, offset):
        request = aiocb(fildes=fd, buf=ctypes.addressof(buffer), nbytes=count, offset=offset)
        request.sigevent.notify = SIGEV_AIO_EVENTFD
        request.sigevent.signo = self.eventfd
        if start(ctypes.byref(request)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        future = self.loop.create_future()
        # Request and buffer live until they are complete, also when nobody awaits them any more.
        self.pending[ctypes.addressof(request)] = (request, buffer, future)
        return await future

    async def read(self, fd, count, offset):
        buffer = ctypes.create_string_buffer(count)
        got = await self._run(self.library.aio_read, fd, buffer, count, offset)
        return buffer.raw[:got]

    async def write(self, fd, data, offset):
        buffer = ctypes.create_string_buffer(bytes(data), len(data))
        return await self._run(self.library.aio_write, fd, buffer, len(data), offset)


async def copy(files, source, target, size, block):
    """Copies in sixteen tasks, each of which takes the next block."""
    offsets = iter(range(0, size, block))

    async def worker():
        for offset in offsets:
            data = await files.read(source, block, offset)
            assert await files.write(target, data, offset) == len(data)

    await asyncio.gather(*(worker() for _ in range(16)))


async def main(library, directory):
    size, block = 300 * 4096 + 123, 4096
    content = os.urandom(size)
    names = [os.path.join(directory, name) for name in ("source", "target")]
    source, target = (os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC) for name in names)
    os.pwrite(source, content, 0)
    os.fsync(source)
    os.posix_fadvise(source, 0, 0, os.POSIX_FADV_DONTNEED)
    files = AsyncFiles(library)
    await asyncio.wait_for(copy(files, source, target, size, block), 30)
    assert os.pread(target, size + 1, 0) == content, "the copy differs"
    # A pipe: the loop goes on while nothing is there.
    reader, writer = os.pipe()
    reading = asyncio.ensure_future(files.read(reader, 100, 0))
    await asyncio.sleep(0.01)
    assert not reading.done()
    os.write(writer, b"through a pipe")
    assert await asyncio.wait_for(reading, 30) == b"through a pipe"
    try:
        await files.read(writer, 1, 0)
        raise SystemExit("the writing end can be read")
    except OSError as error:
        assert error.errno == errno.EBADF
    files.close()
    print(f"{size} bytes copied")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    asyncio.run(main(sys.argv[1], sys.argv[2]))
