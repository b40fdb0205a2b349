"""Render: templates into text, with one quoting filter for each language that the text is in."""

from __future__ import annotations

import json
import shlex
import xml.sax.saxutils
from functools import cache
from importlib.resources import files

import jinja2

from swarmbus.version import __version__


def render(template: str, **values: object) -> str:
    """Fill in ``templates/<template>``.

    Every value goes through the filter of its place's language: ``{{ path | systemd_word }}``.

    Raises:
        jinja2.UndefinedError: If the template names a value that is not given.
        ValueError: If a value cannot be written in that language.
    """
    return _environment().get_template(template).render(version=__version__, **values)


def plain(name: str) -> str:
    """A file of ``templates/`` in which there is nothing to fill in."""
    return _source(name)


@cache
def _environment() -> jinja2.Environment:
    # Autoescape is for HTML, which none of this is.
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        systemd_text=systemd_text,
        systemd_word=systemd_word,
        systemd_argument=systemd_argument,
        mosquitto=mosquitto_value,
        shell=shlex.quote,
        toml=toml_string,
        json=json.dumps,
        xml=xml_text,
    )
    return environment


def _source(name: str) -> str:
    return (files("swarmbus") / "templates" / name).read_text(encoding="utf-8")


def systemd_text(value: object) -> str:
    """For ``Description=`` and other settings that are one text: ``%`` begins a specifier there."""
    return _one_line(value).replace("%", "%%")


def systemd_word(value: object) -> str:
    """For settings that are a list of words, such as ``Environment=``: quoted where it must be."""
    text = systemd_text(value)
    if text and not set(text) & set(" \t\"'\\;#"):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def systemd_argument(value: object) -> str:
    """For a word of ``ExecStart=`` after the program, where ``$`` stands for a variable."""
    return systemd_word(str(value).replace("$", "$$"))


def mosquitto_value(value: object) -> str:
    """For the rest of a line in mosquitto.conf: there is no quoting, so some values cannot be written."""
    text = _one_line(value)
    if text != text.strip() or not text:
        raise ValueError(f"not possible in mosquitto.conf: {text!r}")
    return text


def toml_string(value: str) -> str:
    """A TOML basic string: JSON's, but for DEL, and for surrogate pairs, of which TOML knows none."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def xml_text(value: object) -> str:
    """For the text of an XML element."""
    return xml.sax.saxutils.escape(_one_line(value))


def _one_line(value: object) -> str:
    text = str(value)
    if any(ord(character) < 32 for character in text):
        raise ValueError(f"control characters cannot be written in a configuration file: {text!r}")
    return text
