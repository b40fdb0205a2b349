"""The documents are only as well tested as their pages are well taken apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.pages import matches, parse

PAGE = """\
# A page, with `code`

See [there](other.md#down-here), not `[this](one)`.

```sh
before any directive
```
<!-- test: run -->
```console
$ swarmbus send --to coder \\
>     --subject s
stored ...
$ true
```
<!-- test: run status=1 -->
```sh
false
```
```sh
after
```
<!-- test: skip needs a Mac -->
1. In a list:

   ```sh
   launchctl
   ```

```toml
a = 1
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    file = tmp_path / "page.md"
    file.write_text(PAGE)
    return file


def test_blocks_inherit_the_directive_before_them(page: Path) -> None:
    directives = [block.directive for block in parse(page).blocks]
    assert directives[0] is None
    assert [(told.run, told.status, told.reason) for told in directives[1:] if told is not None] == [
        (True, 0, ""),
        (True, 1, ""),
        (True, 0, ""),
        (False, 0, "needs a Mac"),
        (False, 0, "needs a Mac"),
    ]


def test_console_block_is_commands_and_what_they_print(page: Path) -> None:
    assert list(parse(page).blocks[1].commands()) == [
        ("swarmbus send --to coder \\\n    --subject s", ["stored ..."]),
        ("true", None),
    ]


def test_indented_block_loses_its_indent(page: Path) -> None:
    assert parse(page).blocks[4].text == "launchctl\n"


def test_links_and_headings_are_found(page: Path) -> None:
    assert parse(page).links == [(3, "other.md#down-here")]
    assert parse(page).anchors == {"a-page-with-code"}


def test_unknown_directive_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("<!-- test: run sometimes -->\n")
    with pytest.raises(AssertionError, match="none of: status"):
        parse(file)


@pytest.mark.parametrize(
    ("printed", "wanted", "same"),
    [
        ("stored 17 ms\n", ["stored ... ms"], True),
        ("stored 17 ms\n", ["stored"], False),
        ("a\nb\nc\n", ["a", "...", "c"], True),
        ("a\nc\n", ["a", "...", "c"], True),
        ("a\nb\n", ["a", "...", "c"], False),
        ("a  \n\n", ["a"], True),
        ("[x].*\n", ["[x].*"], True),
    ],
)
def test_dots_stand_for_anything(printed: str, wanted: list[str], same: bool) -> None:
    assert matches(printed, wanted) is same
