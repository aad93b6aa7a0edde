"""Real-looking content for the benchmark volumes, the same for the same seed.

  content.py access|syslog|journal|orders|text COUNT SEED EPOCH    lines on standard output
  content.py office FILE SEED CHANGED PARAGRAPHS                   a zip of XML parts, as office programs save

Prose comes from an order-1 Markov chain over Python's own manual: it compresses like prose and never repeats verbatim.
"""
import random
import sys
import time
import zipfile
from pydoc_data.topics import topics


def markov_chain():
    """For each word of the corpus, the words that follow it."""
    words = " ".join(topics[name] for name in sorted(topics)).replace("\\", "/").split()
    follow = {}
    for word, following in zip(words, words[1:]):
        follow.setdefault(word, []).append(following)
    return follow


class Writer:
    """Draws lines of one kind; every choice comes from one seeded generator."""

    def __init__(self, kind, seed):
        self.random = random.Random(f"{kind}/{seed}")
        self.seed = seed
        self.follow = markov_chain()
        self.words = sorted(self.follow)
        self.names = [w for w in self.words if w.isalpha() and 4 < len(w) < 10][:600]
        draw = self.random
        self.addresses = [".".join(str(draw.randrange(1, 255)) for _ in range(4)) for _ in range(400)]
        self.paths = ["/" + "/".join(draw.choice(self.names).lower() for _ in range(draw.randrange(1, 4))) for _ in range(900)]
        systems = ("X11; Linux x86_64", "Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10_15")
        self.agents = [f"Mozilla/5.0 ({system}) {browser}/{draw.randrange(60, 130)}.{draw.randrange(9)}"
                       for system in systems for browser in ("Firefox", "Chrome", "Safari", "Edge") for _ in range(3)]

    def prose(self, length):
        word = self.random.choice(self.words)
        out = [word]
        while len(out) < length:
            word = self.random.choice(self.follow.get(word) or self.words)
            out.append(word)
        return " ".join(out)

    def access(self, _, now):
        draw = self.random
        stamp = time.strftime("%d/%b/%Y:%H:%M:%S", time.gmtime(now))
        return '%s - - [%s +0000] "%s %s HTTP/1.1" %d %d "-" "%s"\n' % (
            draw.choice(self.addresses), stamp, draw.choice(("GET", "GET", "GET", "POST")), draw.choice(self.paths),
            draw.choice((200, 200, 200, 304, 404)), draw.randrange(90000), draw.choice(self.agents))

    def syslog(self, _, now):
        draw = self.random
        program = draw.choice(("sshd", "cron", "kernel", "systemd", "postfix/smtpd", "dhclient"))
        stamp = time.strftime("%b %d %H:%M:%S", time.gmtime(now))
        return f"{stamp} branch {program}[{draw.randrange(300, 32000)}]: {self.prose(draw.randrange(5, 14))}\n"

    def journal(self, number, now):
        draw = self.random
        fields = {
            "__REALTIME_TIMESTAMP": now * 1_000_000 + number, "__MONOTONIC_TIMESTAMP": number * 1000 + 1,
            "_BOOT_ID": f"{0xB0071D:032x}", "PRIORITY": 6, "_HOSTNAME": "branch", "_PID": draw.randrange(300, 32000),
            "SYSLOG_IDENTIFIER": draw.choice(("sshd", "cron", "systemd", "dhclient")), "_TRANSPORT": "syslog",
            "MESSAGE": self.prose(draw.randrange(5, 14)),
        }
        return "".join(f"{name}={value}\n" for name, value in fields.items()) + "\n"

    def orders(self, number, now):
        """id customer created status sku quantity price reference address note"""
        draw = self.random
        return "\t".join(map(str, (
            self.seed * 10_000_000 + number + 1, draw.randrange(1, 60000), time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now)),
            draw.choice(("new", "paid", "shipped", "closed")), f"SKU-{draw.randrange(20000):05d}", draw.randrange(1, 20),
            f"{draw.random() * 900:.2f}", f"{draw.getrandbits(128):032x}",
            f"{draw.randrange(1, 300)} {draw.choice(self.names)} Street, {draw.choice(self.names)}",
            self.prose(draw.randrange(6, 34))))) + "\n"

    def text(self, _, __):
        return self.prose(self.random.randrange(8, 16)) + "\n"


def lines(kind, count, seed, epoch):
    writer = Writer(kind, seed)
    line = getattr(writer, kind)
    for number in range(count):
        epoch += writer.random.choice((0, 0, 0, 1, 1, 2, 5))
        sys.stdout.write(line(number, epoch))


def office(path, seed, changed, source):
    """The document of `seed` after `changed` of its paragraphs were edited; it is compressed anew as a whole."""
    with open(source) as file:
        stock = file.read().splitlines()
    draw = random.Random(seed)
    paragraphs = [draw.choice(stock) for _ in range(draw.randrange(200, 4000))]
    picture = draw.randbytes(draw.randrange(0, 200_000))
    edit = random.Random(seed * 1000 + changed)
    for _ in range(changed):
        paragraphs[edit.randrange(len(paragraphs))] = edit.choice(stock)
    parts = (("mimetype", b"application/office"), ("meta.xml", b"<rev>%d</rev>" % changed),
             ("content.xml", "".join(f"<p>{text}</p>" for text in paragraphs).encode()), ("media/image1.jpg", picture))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts:
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)


if __name__ == "__main__":
    if sys.argv[1] == "office":
        office(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        lines(sys.argv[1], *map(int, sys.argv[2:5]))
