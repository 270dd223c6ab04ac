"""A reward that does with its process what the completion says; tests name it by its import path."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

MEBIBYTE = 2**20


def own(completion_text: str, reference_answer: str) -> object:
    """The completion is a word, and perhaps the path of a file for a process id."""
    word, _, path = completion_text.partition(" ")
    match word:
        case "exit":
            os._exit(3)
        case "sys.exit":
            sys.exit(4)
        case "interrupt":
            raise KeyboardInterrupt("from within")
        case "segfault":
            ctypes.string_at(0)
        case "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "killed-once":
            if not Path(path).exists():
                Path(path).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case "group":
            os.killpg(0, signal.SIGKILL)
        case "fork":
            os.fork()
        case "daemon":
            daemonize(Path(path))
        case "processes":
            for _ in range(20):
                subprocess.Popen(["sleep", "3600"])
            time.sleep(3600)
        case "bomb":
            while True:
                os.fork()
        case "memory":
            bytearray(64 * 1024 * MEBIBYTE)
        case "memories":
            for _ in range(4):
                if os.fork() == 0:
                    Path("/dev/null").write_bytes(bytes(range(256)) * (300 * MEBIBYTE // 256))
                    time.sleep(3600)
            time.sleep(3600)
        case "output":
            for _ in range(1000):
                print("x" * 10_000)
        case "input":
            return float(len(sys.stdin.read()))
        case "huge":
            return 10**400
        case "long":
            raise ValueError("x" * 10**7)
    return 1.0


def daemonize(path: Path) -> None:
    """Leaves a process behind that has no parent, no open file and a session and an environment of its own."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 256)
            path.write_text(str(os.getpid()))
            os.execve("/bin/sleep", ["sleep", "3600"], {})
        os._exit(0)
    while not (path.exists() and path.read_text()):
        time.sleep(0.01)
