"""Bytes on the wire by peer and step, as rows of a CSV file. Run it through measure-peers.sh, which says what it is for.

Columns: volume, images (fingerprint of the volume's images), step (seed, g0-g1, ...), peer, bytes, wall_s, cpu_s, peak_rss_kib, note.
A row with the step `all` follows when a peer has done all steps; of two rows for one step, the later one holds.
"""
import argparse
import csv
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress

COLUMNS = ["volume", "images", "step", "peer", "bytes", "wall_s", "cpu_s", "peak_rss_kib", "note"]
BLOCK = 4096
STRIDE = 16 << 20
ZERO = bytes(BLOCK)
# R: level 12, and a window and long-distance matching that cover the whole old image and the new blocks.
LONG = "--long=30 --zstd=ldmMinMatch=32,ldmHashLog=24,ldmHashRateLog=4".split()
# A peer that hangs must not hang the run. The slowest measured (borg, zstd 19, 2 GiB) took a tenth of this.
TIME_LIMIT_S = 3600


class Failed(Exception):
    """A peer ended with an error or not at all."""


class Runner:
    """Runs programs under time(1), with their files in one scratch folder."""

    def __init__(self, scratch):
        self.scratch = scratch

    def path(self, *parts):
        return os.path.join(self.scratch, *parts)

    def fresh(self, name):
        path = self.path(name)
        shutil.rmtree(path, ignore_errors=True)
        with suppress(FileNotFoundError):
            os.unlink(path)
        return path

    def run(self, argv, cwd=None, env=None, stdin=subprocess.DEVNULL, fine=(0,)):
        """Standard output, wall seconds, CPU seconds, peak resident KiB of the program and its children."""
        out, err, timing = self.path("stdout"), self.path("stderr"), self.path("time")
        with open(out, "wb") as stdout, open(err, "wb") as stderr:
            child = subprocess.Popen(["/usr/bin/time", "-q", "-o", timing, "-f", "%e %U %S %M", *argv], cwd=cwd, stdin=stdin,
                                     stdout=stdout, stderr=stderr, env={**os.environ, **(env or {})}, start_new_session=True)
            try:
                code = child.wait(TIME_LIMIT_S)
            except BaseException as stop:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                if isinstance(stop, subprocess.TimeoutExpired):
                    raise Failed(f"{argv[0]}: not done after {TIME_LIMIT_S} s") from stop
                raise
        if code not in fine:
            with open(err, errors="replace") as text:
                raise Failed(f"{argv[0]} ended with {code}: {text.read()[-500:]}")
        with open(timing) as text:
            wall, user, system, rss = text.read().split()[-4:]
        with open(out, errors="replace") as text:
            return text.read(), float(wall), float(user) + float(system), int(rss)


def stored(folder):
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(folder) for name in names)


def step_name(number):
    return "seed" if number == 0 else f"g{number - 1}-g{number}"


# Each peer is a generator over a volume's images: (step, bytes, wall, cpu, rss, note).

def restic(runner, images):
    repository = runner.fresh("restic")
    env = {"RESTIC_PASSWORD": "benchmark", "RESTIC_CACHE_DIR": runner.fresh("restic-cache")}
    command = ["restic", "-q", "-r", repository, "--compression", "max"]
    runner.run(command + ["init"], env=env)
    for number, image in enumerate(images):
        before = stored(repository)
        with open(image, "rb") as stdin:
            _, *cost = runner.run(command + ["backup", "--stdin", "--stdin-filename", "volume.img"], env=env, stdin=stdin)
        yield step_name(number), stored(repository) - before, *cost, "compression max"


def borg(chunker):
    def measure(runner, images):
        repository = runner.fresh("borg")
        env = {"BORG_BASE_DIR": runner.fresh("borg-base"), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
        runner.run(["borg", "init", "-e", "none", repository], env=env)
        for number, image in enumerate(images):
            level = "zstd,9" if number == 0 else "zstd,19"  # level 19 takes hours for a seed and gains 2 %
            link = runner.fresh("volume.img")
            try:  # borg reads a plain file of a stable name; a link costs nothing where the file system allows it
                os.link(image, link)
            except OSError:
                subprocess.run(["cp", "--sparse=always", image, link], check=True)
            before = stored(os.path.join(repository, "data"))
            sparse = ["--sparse"] if chunker.startswith("fixed") else []
            # 1 is "done, with warnings"
            _, *cost = runner.run(["borg", "create", "-C", level, "--chunker-params", chunker, "--files-cache", "disabled",
                                   *sparse, f"{repository}::g{number}", "volume.img"],
                                  cwd=runner.scratch, env=env, fine=(0, 1))
            yield step_name(number), stored(os.path.join(repository, "data")) - before, *cost, level
    return measure


def casync(average):
    def measure(runner, images):
        store, index = runner.fresh("store.castr"), runner.path("volume.caibx")
        os.mkdir(store)
        for number, image in enumerate(images):
            before = stored(store)
            _, *cost = runner.run(["casync", "make", "--compression=zstd", f"--store={store}", f"--chunk-size={average}", index, image])
            yield step_name(number), stored(store) - before + os.path.getsize(index), *cost, f"index {os.path.getsize(index)}"
    return measure


def rsync(*options):
    def measure(runner, images):
        shell, target = runner.path("shell"), runner.fresh("target.img")
        with open(shell, "w") as script:
            script.write('#!/bin/sh\nshift\nexec "$@"\n')  # the other end, without a network
        os.chmod(shell, 0o755)
        for number, image in enumerate(images):
            if number == 0 and options:
                continue  # a seed at level 19 takes hours; rsync-default has the row
            if number == 0:
                how = ["--sparse"]
            else:
                subprocess.run(["cp", "--sparse=always", images[number - 1], target], check=True)
                how = ["--inplace", "--no-whole-file"]
            out, *cost = runner.run(["rsync", "-e", shell, "--stats", "-I", "-z", *how, *options, image, f"there:{target}"])
            total = sum(int(re.sub(r"\D", "", re.search(rf"Total bytes {way}: ([\d,.]+)", out)[1])) for way in ("sent", "received"))
            yield step_name(number), total, *cost, "CPU of both ends"
    return measure


def reference(runner, images):
    """R: what one frame costs whose window holds the whole old image. The payload alone, without framing, metadata, encryption."""
    for number in range(1, len(images)):
        old, new = images[number - 1], images[number]
        dirty = dirty_blocks(old, new)
        fresh, prefix, coded = runner.path("fresh"), runner.path("prefix"), runner.fresh("coded")
        copy_blocks(new, dirty, fresh, "wb")
        copy_blocks(old, used_blocks(old), prefix, "wb")
        copy_blocks(old, dirty, prefix, "ab")
        _, *cost = runner.run(["zstd", "-q", "-f", "-T1", "-12", *LONG, f"--patch-from={prefix}", fresh, "-o", coded])
        yield step_name(number), os.path.getsize(coded), *cost, f"dirty {len(dirty) * BLOCK}"


# ---------------------------------------------------------------- images

def strides(path):
    """Offsets of the strides of an image that hold anything but holes."""
    size, at = os.path.getsize(path), 0
    with open(path, "rb") as file:
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // STRIDE * STRIDE
            except OSError:  # nothing but a hole from here on
                return
            yield at
            at += STRIDE


def blocks_of(data):
    return (data[at:at + BLOCK] for at in range(0, len(data), BLOCK))


def used_blocks(path):
    with open(path, "rb") as file:
        return [at + n * BLOCK for at in strides(path)
                for n, block in enumerate(blocks_of(os.pread(file.fileno(), STRIDE, at))) if block != ZERO[:len(block)]]


def dirty_blocks(old, new):
    out, size = [], os.path.getsize(new)
    with open(old, "rb") as a, open(new, "rb") as b:
        for at in sorted(set(strides(old)) | set(strides(new))):
            if at >= size:
                break
            fresh = os.pread(b.fileno(), STRIDE, at)
            before = os.pread(a.fileno(), STRIDE, at).ljust(len(fresh), b"\0")[:len(fresh)]
            if before != fresh:
                out += [at + n * BLOCK for n, (x, y) in enumerate(zip(blocks_of(before), blocks_of(fresh))) if x != y]
    return out


def copy_blocks(path, offsets, to, mode):
    with open(path, "rb") as source, open(to, mode) as target:
        for offset in offsets:
            target.write(os.pread(source.fileno(), BLOCK, offset))


def images_of(folder):
    names = [name for name in os.listdir(folder) if re.fullmatch(r"g\d+\.img", name)]
    return [os.path.realpath(os.path.join(folder, name)) for name in sorted(names, key=lambda name: int(name[1:-4]))]


def fingerprint(images):
    """Tells one build of a volume from another without reading it: sizes and modification times."""
    stats = [os.stat(image) for image in images]
    return hashlib.sha256(repr([(s.st_size, s.st_mtime_ns) for s in stats]).encode()).hexdigest()[:16]


# ---------------------------------------------------------------- main

PEERS = {
    "R": reference,
    "restic": restic,
    "rsync": rsync(),
    "rsync-4k-zstd19": rsync("-B", "4096", "--zc=zstd", "--zl=19"),
    "casync-64k": casync(65536),
    "casync-16k": casync(16384),
    "borg-fixed4k": borg("fixed,4096"),
    "borg-buzhash": borg("buzhash,19,23,21,4095"),
}


def measured(table):
    if not os.path.exists(table):
        with open(table, "w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)
        return set()
    with open(table, newline="") as file:
        return {(row["volume"], row["images"], row["peer"]) for row in csv.DictReader(file) if row["step"] == "all"}


def measure(peer, folder, table, scratch):
    volume, images = os.path.basename(os.path.realpath(folder)), images_of(folder)
    if not images:
        sys.exit(f"{folder}: holds no g0.img: each folder must hold the generations of one volume")
    mark = fingerprint(images)
    if (volume, mark, peer) in measured(table):
        return

    def row(step, size, wall=0.0, cpu=0.0, rss=0, note=""):
        with open(table, "a", newline="") as file:
            csv.writer(file).writerow([volume, mark, step, peer, size, f"{wall:.1f}", f"{cpu:.1f}", rss, note])

    try:
        for step, size, wall, cpu, rss, note in PEERS[peer](Runner(scratch), images):
            row(step, size, wall, cpu, rss, note)
            print(time.strftime("%T"), volume, step, peer, f"{size:,}", f"{wall:.1f} s, CPU {cpu:.1f} s", note, flush=True)
        row("all", 0)  # nothing is missing
    except Failed as why:
        print(time.strftime("%T"), volume, peer, "FAILED:", why, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(prog="measure-peers.sh")
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("results", nargs="?")
    parser.add_argument("folders", nargs="*")
    asked = parser.parse_args()
    if asked.list:
        print(*PEERS, sep="\n")
        return
    if not asked.results or not asked.folders:
        parser.error("a results file and the folders of the volumes are needed")
    unknown = set(asked.peers.split(",")) - set(PEERS)
    if unknown:
        parser.error(f"unknown peers {sorted(unknown)}; known are {', '.join(PEERS)}")
    table = os.path.abspath(asked.results)
    os.makedirs(os.path.dirname(table), exist_ok=True)
    for peer in asked.peers.split(","):
        for folder in asked.folders:
            with tempfile.TemporaryDirectory(prefix=".scratch.", dir=os.path.dirname(table)) as scratch:
                measure(peer, folder, table, scratch)


main()
