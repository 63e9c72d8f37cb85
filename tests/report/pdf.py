"""As much of PDF (ISO 32000-1) as matplotlib writes: objects, a page, fonts, and the sizes of its texts."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

_OBJECT = re.compile(rb"^(\d+) 0 obj\n(.*?)\nendobj", re.DOTALL | re.MULTILINE)
_STREAM = re.compile(rb"^(<<.*?>>)\s*stream\r?\n(.*)\nendstream", re.DOTALL)


@dataclass(frozen=True)
class Pdf:
    """A file by its objects: number -> (dictionary, unpacked stream)."""

    objects: dict[int, tuple[bytes, bytes]]

    def of_type(self, name: str) -> list[bytes]:
        """Dictionaries of one /Type."""
        return [d for d, _ in self.objects.values() if re.search(rb"/Type /%s\b" % name.encode(), d)]

    @property
    def inches(self) -> tuple[float, float]:
        """Width and height of the only page."""
        (page,) = self.of_type("Page")
        box = re.search(rb"/MediaBox \[ ?([\d. ]+?) ?\]", page)
        assert box
        left, bottom, right, top = map(float, box[1].split())
        return (right - left) / 72, (top - bottom) / 72

    @property
    def fonts(self) -> list[bytes]:
        """Font dictionaries, those inside a composite one too."""
        return self.of_type("Font")

    @property
    def sizes(self) -> list[float]:
        """Points of each text shown: its font size times the scale of its matrix."""
        (page,) = self.of_type("Page")
        content = re.search(rb"/Contents (\d+) 0 R", page)
        assert content
        found, size, scale = [], 0.0, 1.0
        for line in self.objects[int(content[1])][1].splitlines():
            words = line.split()
            if words[-1:] == [b"Tf"]:
                size = float(words[-2])
            elif words[-1:] == [b"Tm"]:
                scale = (float(words[0]) ** 2 + float(words[1]) ** 2) ** 0.5
            elif words[-1:] in ([b"Tj"], [b"TJ"]):
                found.append(size * scale)
        return found


def read(content: bytes) -> Pdf:
    """A file of PDF 1.4 without object streams; AssertionError where its parts do not add up."""
    assert content.startswith(b"%PDF-1.4") and content.rstrip().endswith(b"%%EOF")
    start = int(re.findall(rb"startxref\n(\d+)\n", content)[-1])
    assert content[start : start + 4] == b"xref"
    objects = {}
    for match in _OBJECT.finditer(content[:start]):
        entry = b"%010d 00000 n" % match.start()
        assert entry in content[start:], f"object {match[1].decode()} is not where the table says"
        stream = _STREAM.match(match[2])
        if stream is None:
            objects[int(match[1])] = match[2], b""
        else:
            packed = b"/FlateDecode" in stream[1]
            objects[int(match[1])] = stream[1], zlib.decompress(stream[2]) if packed else stream[2]
    return Pdf(objects)
