"""Processes, processors and memory.

Everything runs in a network and a process namespace of its own: fixed ports do not collide with anybody's, the machine's packet
filters cost nothing, and nothing outlives the run, however it ends.
"""

import contextlib
import fcntl
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "release"
TICKS = os.sysconf("SC_CLK_TCK")
INSIDE = "FIREBREAK_BENCH_INSIDE"

# The proxy alone on one processor; what feeds it, generator and origin, on another. A third is the generator's, if there is one.
PROCESSORS = sorted(os.sched_getaffinity(0))
ORIGIN_CPU, PROXY_CPU, GENERATOR_CPU = (PROCESSORS[index] for index in ((0, 1, 2) if len(PROCESSORS) > 2 else (0, 1, 0)))

SIOCSIFFLAGS, IFF_UP, IFF_RUNNING = 0x8914, 0x1, 0x40


def enter_namespaces():
    """Runs this program again in namespaces of its own, and returns in there."""
    if os.environ.pop(INSIDE, None):
        # Orderly, so that temporary folders go too.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
        flags = struct.pack("16sH14x", b"lo", IFF_UP | IFF_RUNNING)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, flags)
        return
    os.environ[INSIDE] = "1"
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    namespaces = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with subprocess.Popen(["unshare", *user, *namespaces, sys.executable, "-B", *sys.argv]) as process:
        # unshare does not end by these signals. An interrupt reaches the inner process by itself, another is passed on.
        signal.signal(signal.SIGINT, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: [os.kill(pid, signal.SIGTERM) for pid in family(process.pid)[1:2]])
        sys.exit(process.wait())


def go_first():
    """Takes the highest priority there is, so that what else runs disturbs less. It is the session's where sessions have one."""
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    group = pathlib.Path("/proc/self/autogroup")
    if group.exists():
        os.setsid()
        group.write_text("-20")


def install(packages):
    """Installs Debian packages of programs that are missing."""
    missing = sorted({package for program, package in packages.items() if not which(program)})
    if not missing:
        return
    if os.geteuid() != 0:
        sys.exit(f"missing, and only root may install them: apt-get install {' '.join(missing)}")
    subprocess.run(["apt-get", "update", "-qq"], check=True)
    subprocess.run(["apt-get", "install", "-yqq", "--no-install-recommends", *missing], check=True, stdout=subprocess.DEVNULL)


def which(program):
    return shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")


def start(command, processors, **options):
    """Starts a program on some processors, in a process group of its own, but in one session: the kernel may schedule by session."""

    def prepare():
        os.setpgid(0, 0)
        os.sched_setaffinity(0, processors)

    options = {"stdout": subprocess.DEVNULL, "stderr": sys.stderr, **options}
    return subprocess.Popen([str(word) for word in command], preexec_fn=prepare, **options)


def stop(process):
    """Ends what was started, with its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(command, processors=(GENERATOR_CPU,)):
    """Runs a program to its end and returns what it printed."""
    with start(command, processors, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        out, error = process.communicate()
        if process.returncode != 0:
            sys.exit(f"{command[0]} failed:\n{out}{error}")
        return out


def family(pid):
    """The process and its children: nginx works in a child."""
    children = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(descendant for child in children for descendant in family(int(child)))]


def cpu(pid):
    """Seconds of processor time so far, in user mode and in the kernel."""
    fields = [pathlib.Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split() for member in family(pid)]
    return sum(int(field[11]) for field in fields) / TICKS, sum(int(field[12]) for field in fields) / TICKS


def cpu_of_ended_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory(pid):
    """Resident MiB."""
    texts = [pathlib.Path(f"/proc/{member}/status").read_text() for member in family(pid)]
    return sum(int(re.search(r"VmRSS:\s+(\d+)", text)[1]) for text in texts) / 1024


def settle(measure, quiet=1.0, patience=10.0):
    """Waits until a figure has not moved for a while."""
    last, since, deadline = measure(), time.monotonic(), time.monotonic() + patience
    while time.monotonic() - since < quiet and time.monotonic() < deadline:
        time.sleep(0.05)
        now = measure()
        if now != last:
            last, since = now, time.monotonic()
    return last


def listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for_port(port, wanted=True):
    deadline = time.monotonic() + 20
    while listening(port) != wanted:
        if time.monotonic() > deadline:
            sys.exit(f"port {port} is {'closed' if wanted else 'still open'} after 20 s")
        time.sleep(0.005)


def say(text):
    print(f"[bench] {text}", file=sys.stderr, flush=True)
