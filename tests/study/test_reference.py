"""The committed reference of the study file is what its models say."""

from pathlib import Path

from isoloss.recipe import catalogue
from isoloss.study.reference import reference
from isoloss.study.schema import TOP_LEVEL

PAGE = Path(__file__).resolve().parents[2] / "docs" / "study-file.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), (
        "run: python -m isoloss.study.reference > docs/study-file.md"
    )


def test_the_page_has_every_key_and_name() -> None:
    page = reference()
    for key in TOP_LEVEL:
        assert f"`{key}`" in page or f"## {key}" in page
    for kind in catalogue.KINDS:
        for name in catalogue.names(kind):
            assert name in page
            for option in catalogue.get(kind, name).options:
                assert f"`{option.name}`" in page
