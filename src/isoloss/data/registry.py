"""Names of the sources, and the one function that opens any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from isoloss.data.image_files import open_arrays, open_cifar, open_folder, open_idx
from isoloss.data.image_packages import open_digits, open_huggingface, open_torchvision
from isoloss.data.options import integer
from isoloss.data.source import Source
from isoloss.data.stdlib import open_stdlib_code, open_stdlib_docs
from isoloss.data.synthetic import open_blobs, open_synthetic
from isoloss.data.text import open_text
from isoloss.data.tokens import open_tokens
from isoloss.data.user import open_user
from isoloss.recipe.errors import StudyError, nearest
from isoloss.recipe.references import is_reference

SOURCES: dict[str, Callable[[Mapping[str, Any], Path | None], Source]] = {
    "stdlib-code": open_stdlib_code,
    "stdlib-docs": open_stdlib_docs,
    "text": open_text,
    "tokens": open_tokens,
    "synthetic": open_synthetic,
    "blobs": open_blobs,
    "digits": open_digits,
    "idx": open_idx,
    "cifar": open_cifar,
    "arrays": open_arrays,
    "image-folder": open_folder,
    "huggingface": open_huggingface,
    "torchvision": open_torchvision,
}
"""What opens each built-in source, by its name in a study."""


def open_source(spec: Mapping[str, Any], cache: Path | None = None) -> Source:
    """Open the source that ``spec`` (the data section of a study) describes.

    ``spec``: source (a name, or ``package.module:attribute``), context, size, tokenizer, and the source's own
    options. ``cache``: folder of memory-mapped tokens; default ``ISOLOSS_CACHE``, else ``~/.cache/isoloss``.
    Raises ``StudyError`` for anything that cannot be used.
    """
    name = spec.get("source")
    if not isinstance(name, str) or not name:
        raise StudyError(f"data.source: found {name!r}; allowed: {', '.join(SOURCES)} or package.module:attribute")
    if spec.get("context") is not None:
        integer(spec, "context", None, 1, 10**7)
    if is_reference(name):
        return open_user(name, spec, cache)
    if name not in SOURCES:
        raise StudyError(
            f"data.source: found {name!r}{nearest(name, SOURCES)}; allowed: {', '.join(SOURCES)} "
            "or package.module:attribute"
        )
    if spec.get("version") is not None:
        raise StudyError(f"data.version: only a source of your own has a version; {name!r} is built in")
    return SOURCES[name](spec, cache)
