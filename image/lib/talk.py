"""Sits at a serial line and follows a script, as a person would: reads until something is there, then types.

Usage: python3 talk.py SOCKET < SCRIPT. A line of the script is one of

    see SECONDS PATTERN     until what was said since the last match matches the regular expression
    unseen PATTERN          nothing since the last match but one has matched it
    type TEXT               with \\r for Enter, \\e for Escape

Everything is read all the time, so that the line never stands still. Ends with status 1 and the end of what was said if something does not come.
"""

import re
import socket
import sys
import time

PIECE = 512  # as fast as a line of 115,200 bit/s takes it: a piece each twentieth of a second


class Line:
    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.said = b""
        self.before = b""

    def listen(self, seconds):
        self.socket.settimeout(max(seconds, 0.01))
        try:
            some = self.socket.recv(65536)
        except TimeoutError:
            return
        if not some:
            sys.exit("the serial line was closed")
        self.said += some

    def see(self, seconds, pattern):
        until = time.monotonic() + seconds
        while not (match := re.search(pattern.encode(), self.said)):
            left = until - time.monotonic()
            if left <= 0:
                end = self.said.decode(errors="replace")[-3000:]
                sys.exit(f'nothing matched "{pattern}" within {seconds} s, but there was:\n{end}')
            self.listen(min(left, 1))
        self.before = self.said[: match.start()]
        self.said = self.said[match.end() :]

    def unseen(self, pattern):
        if re.search(pattern.encode(), self.before):
            sys.exit(f'"{pattern}" was there, which it must not:\n{self.before.decode(errors="replace")}')

    def type(self, text):
        typed = text.replace("\\r", "\r").replace("\\e", "\x1b").encode()
        for at in range(0, len(typed), PIECE):
            self.socket.settimeout(60)
            self.socket.sendall(typed[at : at + PIECE])
            self.listen(0.05)


def main():
    line = Line(sys.argv[1])
    for number, step in enumerate(sys.stdin, 1):
        verb, _, rest = step.rstrip("\n").partition(" ")
        if verb == "see":
            seconds, _, pattern = rest.partition(" ")
            line.see(float(seconds), pattern)
        elif verb == "unseen":
            line.unseen(rest)
        elif verb == "type":
            line.type(rest)
        elif verb:
            sys.exit(f"line {number} of the script: there is no {verb}")


main()
