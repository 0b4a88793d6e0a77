# Not a test: the callback interface of the Python package pyaio, for real_programs.sh. Writes blocks of random bytes, all of them
# asked for at once, reads them again in the same way, and compares.
#
# pyaio_blocks.py FILE
import os
import sys
import time
import warnings

# pyaio means to give this interface up.
warnings.simplefilter("ignore", DeprecationWarning)
import pyaio

BLOCKS, BLOCK, PATIENCE = 256, 65536, 60
blocks = [os.urandom(BLOCK) for _ in range(BLOCKS)]
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
left = wrong = 0


def ended(right):
    global left, wrong
    left -= 1
    wrong += not right


def write(number):
    pyaio.aio_write(fd, blocks[number], number * BLOCK, lambda count, _: ended(count == BLOCK))


def read(number):
    pyaio.aio_read(fd, number * BLOCK, BLOCK, lambda data, _count, _: ended(bytes(data) == blocks[number]))


for start in write, read:
    left = BLOCKS
    for number in range(BLOCKS):
        start(number)
    # The callbacks run between the main thread's own instructions.
    deadline = time.monotonic() + PATIENCE
    while left and time.monotonic() < deadline:
        time.sleep(0.001)
    if left:
        sys.exit(f"{left} of {BLOCKS} never ended")
print(f"{BLOCKS} blocks written and read, {wrong} wrong")
sys.exit(wrong != 0)
