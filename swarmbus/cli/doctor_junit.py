"""A doctor's report as JUnit XML, for what shows test results: a suite a category, a case a finding."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import groupby
from typing import Final
from xml.etree import ElementTree

from swarmbus.cli.doctor_text import headline
from swarmbus.inbox_file import one_line
from swarmbus.provision.checks import Status
from swarmbus.provision.report import Report, Result

# What XML 1.0 cannot carry, not even escaped (section 2.2).
_NOT_IN_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_junit(report: Report, fail_on: Status) -> str:
    """The document.

    Args:
        fail_on: From which status on a finding is a failure; a milder one is a case that passed, with output.
    """
    suites = ElementTree.Element("testsuites", name="swarmbus doctor", time=f"{report.seconds:.3f}")
    for category, results in groupby(report.results, key=lambda result: result.check.category):
        cases = [_case(result, fail_on) for result in results]
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=category,
            tests=str(len(cases)),
            failures=_count(cases, "failure"),
            errors=_count(cases, "error"),
            skipped=_count(cases, "skipped"),
            hostname=_text(report.host),
            timestamp=report.time.isoformat(timespec="seconds"),
        )
        suite.extend(cases)
    ElementTree.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(suites, encoding="unicode")}\n'


def _case(result: Result, fail_on: Status) -> ElementTree.Element:
    subject = f" [{result.subject}]" if result.subject else ""
    case = ElementTree.Element(
        "testcase",
        classname=f"swarmbus.{result.check.category}",
        name=_text(f"{result.check.code}{subject}"),
        time=f"{result.seconds:.3f}",
    )
    if result.muted is not None:
        until = datetime.fromtimestamp(result.muted, UTC).isoformat(timespec="minutes")
        _add(case, "skipped", f"muted until {until}: {headline(result)}")
    elif result.status is Status.CRASH:
        _add(case, "error", one_line(result.message), result.detail)
    elif result.status is Status.SKIP:
        _add(case, "skipped", one_line(result.message))
    elif result.status.badness >= fail_on.badness:
        _add(
            case, "failure", one_line(result.message), "\n".join(f"fix: {command}" for command in result.fix)
        )
    elif result.message:
        ElementTree.SubElement(case, "system-out").text = f"{result.status}: {one_line(result.message)}"
    return case


def _add(case: ElementTree.Element, tag: str, message: str, text: str = "") -> None:
    element = ElementTree.SubElement(case, tag, message=_text(message))
    element.text = _text(text) or None


def _count(cases: list[ElementTree.Element], tag: str) -> str:
    return str(sum(case.find(tag) is not None for case in cases))


def _text(text: str) -> str:
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)
