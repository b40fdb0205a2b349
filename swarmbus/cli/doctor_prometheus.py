"""A doctor's report in Prometheus' text format, for the textfile collector of node_exporter."""

from __future__ import annotations

from swarmbus.provision.checks import Status
from swarmbus.provision.report import Report, Result


def as_prometheus(report: Report) -> str:
    """Gauges: the state of each check, and when and how long was looked."""
    scale = ", ".join(f"{status.badness} {status}" for status in Status)
    lines = [
        f"# HELP swarmbus_doctor_check_state Worst finding of a check: {scale}.",
        "# TYPE swarmbus_doctor_check_state gauge",
        # Two findings of a check on one subject would be one series twice, which is refused.
        *(_state(result) for result in report.worst.values()),
        "# HELP swarmbus_doctor_results Findings by status.",
        "# TYPE swarmbus_doctor_results gauge",
        *(f"swarmbus_doctor_results{_labels(status=name)} {count}" for name, count in report.summary.items()),
        "# HELP swarmbus_doctor_time_seconds When the doctor looked, in Unix time.",
        "# TYPE swarmbus_doctor_time_seconds gauge",
        f"swarmbus_doctor_time_seconds {report.time.timestamp():.3f}",
        "# HELP swarmbus_doctor_duration_seconds How long the doctor looked.",
        "# TYPE swarmbus_doctor_duration_seconds gauge",
        f"swarmbus_doctor_duration_seconds {report.seconds:.3f}",
    ]
    return "\n".join([*lines, ""])


def _state(result: Result) -> str:
    labels = _labels(
        code=result.check.code,
        category=result.check.category,
        subject=result.subject,
        muted="no" if result.muted is None else "yes",
    )
    return f"swarmbus_doctor_check_state{labels} {result.status.badness}"


def _labels(**labels: str) -> str:
    def quoted(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

    return "{" + ",".join(f'{name}="{quoted(value)}"' for name, value in labels.items()) + "}"
