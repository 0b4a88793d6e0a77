#!/usr/bin/env python3
"""Real programs, random programs and loops of forks side by side on the preloaded library, for as long as one likes.

    c-tests/tools/soak.py --library FILE [--minutes 30] [--directory DIR]

fio writes, and checks what it reads back; stress-ng does what it does; the model test compares random programs
with what is legal; fork_storm forks against threads in every call. fio and stress-ng live as long as the run: their
descriptors, threads and memory are looked at every ten seconds. At the end all of that, and the kernel's count of AIO
contexts, must be what it was near the beginning, and no program may have found anything wrong.
Exit status 0: nothing was lost, wrong or left over. Started programs are ended by their process ids, files are removed.
"""
import argparse
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Until here a process may still grow to its working size.
WARM_UP = 0.2
# Allocators and page tables waver by so much.
MEMORY_SLACK = 8 << 20


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True, type=pathlib.Path, help="libaio_posix.so")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--directory", type=pathlib.Path, default=ROOT / "target", help="on a disk, for files")
    return parser.parse_args()


def aio_nr():
    return int(pathlib.Path("/proc/sys/fs/aio-nr").read_text())


def holders(root):
    """Who has a context: the processes that this run may have left behind, as they map a file below root, and the others."""
    ours, others = [], []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            maps = pathlib.Path(f"/proc/{pid}/maps").read_text()
            if "/[aio]" in maps:
                name = pathlib.Path(f"/proc/{pid}/comm").read_text().strip()
                (ours if f"{root}/" in maps else others).append(f"{name} {pid}")
        except OSError:
            pass
    return ours, others


def descendants(pid):
    """The process and what it started, as far as they live."""
    found = [pid]
    for one in found:
        try:
            for thread in os.listdir(f"/proc/{one}/task"):
                children = pathlib.Path(f"/proc/{one}/task/{thread}/children").read_text()
                found += [int(child) for child in children.split()]
        except OSError:
            pass
    return found


def usage(pid):
    """Descriptors, threads and bytes of memory of a process; None once it has ended."""
    try:
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return descriptors, int(fields["Threads"]), int(fields["VmRSS"].split()[0]) << 10
    except (OSError, KeyError):
        return None


class Soak:
    def __init__(self, options, scratch):
        self.options, self.scratch = options, scratch
        self.deadline = time.monotonic() + options.minutes * 60
        self.seconds = int(options.minutes * 60)
        self.wrong, self.counts, self.running = [], {}, set()
        self.lock = threading.Lock()
        self.preloaded = dict(os.environ, LD_PRELOAD=str(options.library.resolve()), AIO_TEST_DIR=str(scratch))

    def run(self, name, command, watch=False, quiet=True, environment=None, patience=120):
        """Runs a program to its end; whether it found nothing wrong."""
        left = max(self.deadline - time.monotonic(), 0) + patience
        output = self.scratch / f"{name}.{threading.get_ident()}.out"
        with open(output, "w+b") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, cwd=self.scratch,
                                       env=environment or self.preloaded, start_new_session=True)
            with self.lock:
                self.running.add(process.pid)
            samples = {}
            try:
                if watch:
                    self.watch(process, samples)
                status = process.wait(timeout=left)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                status = f"still running {patience} s after its time"
                process.wait()
            with self.lock:
                self.running.discard(process.pid)
        text = output.read_text(errors="replace")
        if status != 0:
            self.wrong.append(f"{name}: {status}\n{text[-3000:]}")
        elif not quiet:
            print(f"{name}: {text.strip().splitlines()[-1]}", flush=True)
        for pid, series in samples.items():
            self.judge(name, pid, series)
        with self.lock:
            self.counts[name] = self.counts.get(name, 0) + 1
        return text

    def watch(self, process, samples):
        while process.poll() is None and time.monotonic() < self.deadline - 5:
            for pid in descendants(process.pid):
                now = usage(pid)
                if now:
                    samples.setdefault(pid, []).append((time.monotonic(), now))
            time.sleep(min(10, self.seconds / 30))

    def judge(self, name, pid, series):
        """Compares a process near the beginning with the same near the end."""
        start = self.deadline - self.seconds
        settled = [now for at, now in series if at > start + WARM_UP * self.seconds]
        if len(settled) < 8:
            return
        quarter = len(settled) // 4
        first, last = self.typical(settled[:quarter]), self.typical(settled[-quarter:])
        print(f"{name} {pid}: descriptors, threads, KiB: {first[0]:.0f} {first[1]:.0f} {first[2] / 1024:.0f}, "
              f"at the end {last[0]:.0f} {last[1]:.0f} {last[2] / 1024:.0f}", flush=True)
        self.counts["processes watched"] = self.counts.get("processes watched", 0) + 1
        if last[0] > first[0] or last[1] > first[1] + 2 or last[2] > first[2] * 1.1 + MEMORY_SLACK:
            self.wrong.append(f"{name} {pid} grew from {first} to {last}")

    @staticmethod
    def typical(samples):
        """Of descriptors and memory the median; of threads, which come while others wait for the disk and go again, the fewest."""
        descriptors, threads, memory = zip(*samples)
        return statistics.median(descriptors), min(threads), statistics.median(memory)

    def fio(self, name, *more):
        command = ["fio", f"--name={name}", f"--filename={self.scratch}/{name}.data", "--ioengine=posixaio", "--thread", "--size=64m",
                   "--bs=4k", "--iodepth=32", "--rw=randrw", "--verify=crc32c", "--verify_fatal=1", "--time_based",
                   f"--runtime={self.seconds}", *more]
        self.run(name, command, watch=True)

    def stress(self):
        self.run("stress-ng", ["stress-ng", "--aio", "2", "--verify", "--timeout", str(self.seconds), "--temp-path", str(self.scratch)],
                 watch=True)

    def model(self):
        environment = dict(os.environ, AIO_MODEL_SECONDS=str(self.seconds),
                           AIO_POSIX_PRODUCT=str(self.options.library.resolve().parent))
        text = self.run("model test", ["cargo", "test", "--manifest-path", str(ROOT / "Cargo.toml"), "--test", "model", "random",
                                       "--", "--nocapture"], environment=environment, patience=600)
        print("\n".join(line for line in text.splitlines() if line.startswith("model test:") and "requests" in line), flush=True)

    def forks(self):
        program = self.scratch / "fork_storm"
        subprocess.run(["cc", "-O1", "-D_GNU_SOURCE", f"-I{ROOT}/c-tests", f"{ROOT}/c-tests/fork_storm.c", "-o", str(program),
                        "-lpthread"], check=True)
        listed = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout
        cases = [line.split()[1] for line in listed.splitlines()]
        while time.monotonic() < self.deadline:
            for case in cases:
                self.run("fork_storm", [str(program), case])

    def all(self):
        before = aio_nr()
        parts = [lambda: self.fio("fio-direct", "--direct=1"), lambda: self.fio("fio-buffered", "--direct=0", "--fsync=64"),
                 self.stress, self.model, self.forks]
        threads = [threading.Thread(target=part) for part in parts]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            for pid in list(self.running):
                os.killpg(pid, signal.SIGKILL)
        # The kernel frees contexts a little after their processes.
        for _ in range(100):
            after = aio_nr()
            if after <= before:
                break
            time.sleep(0.1)
        print(f"aio-nr: {before} before, {after} after", flush=True)
        ours, others = holders(ROOT)
        if after > before and not others:
            self.wrong.append(f"aio-nr rose from {before} to {after}")
        if ours:
            self.wrong.append(f"left behind: {', '.join(ours)}")
        if others:
            print(f"contexts of others: {', '.join(others)}", flush=True)


def main():
    options = arguments()
    for tool in ["fio", "stress-ng", "cargo", "cc"]:
        if not shutil.which(tool):
            sys.exit(f"soak: {tool} is not installed")
    options.directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-", dir=options.directory) as scratch:
        soak = Soak(options, pathlib.Path(scratch).resolve())
        soak.all()
    print(f"soak: {options.minutes:g} minutes, " + ", ".join(f"{name}: {count}" for name, count in sorted(soak.counts.items())))
    print("\n".join(soak.wrong) if soak.wrong else "soak: 0 lost, 0 wrong, nothing left over")
    sys.exit(1 if soak.wrong else 0)


if __name__ == "__main__":
    main()
