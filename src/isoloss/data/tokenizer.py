"""Text to token ids: bytes, or a Hugging Face ``tokenizer.json`` (extra ``isoloss[tokenizers]``)."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from isoloss.data.files import path_of
from isoloss.recipe.errors import StudyError

_PIECE = 1 << 20


class Tokenizer(Protocol):
    """``identity`` names the tokenizer in a digest; ids are below ``vocabulary``."""

    identity: str
    vocabulary: int
    dtype: np.dtype

    def encode(self, name: str, chunks: Iterable[bytes]) -> Iterator[np.ndarray]:
        """Token ids of one document, in pieces; ``name`` is used in messages."""
        ...


class Bytes:
    """Every byte is a token: ids 0 .. 255, one byte a token, any content."""

    identity = "bytes"
    vocabulary = 256
    dtype = np.dtype(np.uint8)

    def encode(self, name: str, chunks: Iterable[bytes]) -> Iterator[np.ndarray]:
        """The bytes themselves."""
        for chunk in chunks:
            yield np.frombuffer(chunk, dtype=np.uint8)


class HuggingFace:
    """A ``tokenizer.json``; long documents are encoded in pieces of whole lines (about 1 MB), without special
    tokens. Raises ``StudyError`` for a file that is missing or no tokenizer, and for text that is not UTF-8.
    """

    def __init__(self, path: Path) -> None:
        try:
            import tokenizers
        except ImportError as error:
            raise StudyError(
                f"data.tokenizer: {path} needs the package tokenizers; install it with "
                "pip install 'isoloss[tokenizers]', or use tokenizer: bytes"
            ) from error
        try:
            content = path.read_bytes()
        except OSError as error:
            raise StudyError(f"data.tokenizer: cannot read {path}: {error.strerror}") from error
        try:
            self._tokenizer: Any = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the binding raises bare Exception
            raise StudyError(f"data.tokenizer: {path} is no tokenizer.json: {error}") from error
        # A stored truncation or padding would cut or fill documents.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.identity = "tokenizer.json:" + hashlib.sha256(content).hexdigest()
        # Ids need not be dense: the largest one decides.
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self.vocabulary = 1 + max(ids, default=0)
        self.dtype = np.dtype(np.uint16 if self.vocabulary <= 1 << 16 else np.uint32)

    def encode(self, name: str, chunks: Iterable[bytes]) -> Iterator[np.ndarray]:
        """Ids of the text, piece by piece."""
        for text in _lines(name, chunks):
            yield np.asarray(self._tokenizer.encode(text, add_special_tokens=False).ids, dtype=self.dtype)


def _lines(name: str, chunks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    done = 0
    kept = ""
    try:
        for chunk in chunks:
            kept += decoder.decode(chunk)
            done += len(chunk)
            if len(kept) >= _PIECE:
                cut = kept.rfind("\n") + 1 or kept.rfind(" ") + 1 or len(kept)
                yield kept[:cut]
                kept = kept[cut:]
        kept += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise StudyError(
            f"data.path: {name} is not UTF-8 text (byte {error.object[error.start]:#04x} near byte {done}); "
            "convert it, or use tokenizer: bytes"
        ) from error
    if kept:
        yield kept


def open_tokenizer(value: str | None) -> Tokenizer:
    """ "bytes" (default) or the path of a ``tokenizer.json``; raises ``StudyError``."""
    if value is None or value == "bytes":
        return Bytes()
    if isinstance(value, str) and value.endswith(".json"):
        return HuggingFace(path_of("tokenizer", value))
    raise StudyError(f"data.tokenizer: found {value!r}; allowed is 'bytes' or the path of a tokenizer.json file")
