# SPDX-License-Identifier: Apache-2.0
"""metrics.py: names and labels are a closed, small, linted set, and what cannot be read leaves a gap."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Iterable
from typing import get_args

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from homebound import events, records, valuekinds
from homebound.kernel import files, lsm
from homebound.metrics import (
    BY_NAME,
    CALL_SLOTS,
    FEATURES,
    KINDS,
    LSM_RULES,
    METRICS,
    POLICY_RULES,
    PROGRAMS,
    REASONS,
    REQUIRED_GROUPS,
    ROLES,
    RULES,
    TIMED_CLASSES,
    WALLS,
    WANTED_GROUPS,
    Combination,
    Readings,
    Source,
    denied_rule,
    program_group,
    shown_kind,
    violated_rule,
)
from homebound.watcher import policy
from homebound.watcher.recording import Metrics, application

# All that are read at scrape.
SOURCES: tuple[Source, ...] = tuple(name for name in get_args(Source) if name not in ("counted", "collect"))


def made(readings: Readings | None = None) -> tuple[CollectorRegistry, Metrics]:
    registry = CollectorRegistry()
    metrics = Metrics(registry, dict.fromkeys(SOURCES, lambda: readings or {}))
    metrics.set("homebound_build_info", 1, "0.1.0", "abc")
    for feature in FEATURES:
        metrics.set("homebound_kernel_feature", 1, feature)
    return registry, metrics


def samples(registry: CollectorRegistry) -> dict[tuple[str, Combination], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def full(*sets: Iterable[str]) -> dict[Combination, float | None]:
    """A reading in which every combination counted something."""
    return dict.fromkeys(itertools.product(*sets), 1.0)


# What is read at scrape of labels that are not all there from the start: what settings ask for.
AREAS = [area.label for area in files.FileArea if area is not files.FileArea.NONE]
ASKED_FOR: Readings = {
    "homebound_trainer_call_seconds_bucket": full(TIMED_CLASSES, (*CALL_SLOTS.values(), "+Inf")),
    "homebound_trainer_call_seconds_sum": full(TIMED_CLASSES),
    "homebound_trainer_system_calls_total": full(kind.label for kind in events.CallClass),
    "homebound_foreign_calls_total": full(("compat", "x32")),
    "homebound_trainer_opens_total": full(AREAS, (mode.label for mode in files.FileMode)),
}


def count_series(readings: Readings) -> int:
    registry, metrics = made(readings)
    metrics.set("homebound_bpf_loader_info", 1, "libbpf")
    application(registry)
    return len(samples(registry))


def test_series_are_few_with_the_default_settings_and_with_all_options_on() -> None:
    """Under 300 a device, but for a site's own probes, which have a limit of their own. Programs that are
    switched off have no figures, and are counted here all the same."""
    default, all_on = count_series({}), count_series(ASKED_FOR)
    print(f"{default} series with the default settings, {all_on} with all options")
    assert 200 < default < all_on < 300


def test_no_metric_with_open_labels_is_left_out_of_the_count() -> None:
    """What has labels that are not declared is among the facts that are set once, or counted above."""
    opened = {metric.name for metric in METRICS if metric.labels and not metric.values}
    set_once = {
        "homebound_build_info", "homebound_kernel_feature", "homebound_bpf_loader_info",
        "homebound_site_probe_loaded",
    }  # fmt: skip
    readings = {name.removesuffix("_bucket").removesuffix("_sum") for name in ASKED_FOR}
    assert opened == set_once | readings


def test_every_declared_combination_is_preset_to_0() -> None:
    registry, _ = made()
    found = samples(registry)
    for metric in METRICS:
        if metric.type == "histogram" or metric.source == "collect":
            continue
        for combination in metric.values:
            assert found[metric.name, combination] == 0.0, metric.name


def test_no_created_samples() -> None:
    registry, metrics = made()
    metrics.add("homebound_updates_total")
    metrics.observe("homebound_round_seconds", 3)
    assert not [name for name, _ in samples(registry) if name.endswith("_created")]


def lsm_rules() -> list[events.Rule]:
    return [rule for rule in events.Rule if rule.label in LSM_RULES]


def test_sets_are_those_of_their_owners() -> None:
    assert set(ROLES) == {role.label for role in events.Role}
    assert {*RULES, *LSM_RULES} == {rule.label for rule in events.Rule}
    assert set(LSM_RULES) == {program.label for program in lsm.PROGRAMS}
    assert {denied_rule(rule.label) for rule in lsm_rules()} == {"lsm"}
    assert {violated_rule("trainer", rule.label) for rule in lsm_rules()} == {"lsm"}
    made_kinds = [kind for kind in events.Kind if kind is not events.Kind.ROLE_EXIT]  # which nobody makes
    assert set(KINDS) == {shown_kind(kind.label) for kind in made_kinds}
    joined = [kind for kind in made_kinds if shown_kind(kind.label) != kind.label]
    assert joined == [events.Kind.PROCESS_FORK, events.Kind.PROCESS_EXEC, events.Kind.PROCESS_EXIT]
    assert sorted(PROGRAMS) == sorted(program.bpf_name for program in events.Program)
    assert {*REQUIRED_GROUPS, *WANTED_GROUPS} == {program_group(name) for name in PROGRAMS}
    required = {program_group(program.bpf_name) for program in events.Program if program.is_required}
    assert set(REQUIRED_GROUPS) == required
    assert set(REASONS) == {code.value for code in records.RefusalCode}
    assert set(WALLS) >= set(get_args(valuekinds.Wall))
    assert {role.label for role in policy.WATCHED} < set(ROLES)


def test_every_violation_of_a_role_has_a_series() -> None:
    """Whatever a watched role is caught at; of our own roles the kind of wall, of the trainer the rule."""
    declared = set(BY_NAME["homebound_violations_total"].values)
    for role in policy.WATCHED:
        for rule in events.Rule:
            if rule is events.Rule.CREDIT and role is not events.Role.GATEWAY:
                continue  # nobody else can be without
            assert (role.label, violated_rule(role.label, rule.label)) in declared, (role, rule)
    assert {rule for role, rule in declared if role == "watcher"} == {"network", "sandbox", "cgroup"}
    assert violated_rule("gateway", "connect6") == "network"
    assert violated_rule("gateway", "credit") == "credit"
    assert violated_rule("guard", "lsm_open") == violated_rule("guard", "trace") == "sandbox"
    assert violated_rule("trainer", "connect6") == "connect"
    assert violated_rule("guard", "transmit") == "transmit"


def test_the_rules_of_policy_that_are_no_kernel_rules_are_declared() -> None:
    verdicts = [
        policy.decide(policy.Sent(events.Role.TRAINER, 1), "enforce"),
        policy.decide(policy.Unexplained(1), "enforce"),
        policy.decide(policy.CanaryResult(1), "enforce"),
        policy.decide(policy.Strange(1), "enforce"),
    ]
    verdicts.append(policy.decide(policy.Sent(events.Role.GUARD, 1), "enforce"))
    assert {(verdict.role.label, verdict.rule) for verdict in verdicts} == set(POLICY_RULES)


def test_names_follow_the_conventions() -> None:
    assert len(BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("homebound_")
        assert metric.name.endswith("_total") == (metric.type == "counter"), metric.name
        assert metric.help.endswith("."), metric.name
        assert not {"pid", "comm", "path", "type", "service", "job", "instance", "env"} & set(metric.labels)


def test_promtool_accepts_the_page() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    page = generate_latest(made()[0])
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    # The control: it does find a counter without its ending.
    bad = b"# HELP a_counter a\n# TYPE a_counter counter\na_counter 1\n"
    assert subprocess.run(
        [promtool, "check", "metrics"], input=bad, capture_output=True, check=False
    ).returncode


def test_the_page_is_valid_openmetrics() -> None:
    page = openmetrics.generate_latest(made()[0]).decode()  # type: ignore[no-untyped-call]
    parsed = text_string_to_metric_families(page)  # type: ignore[no-untyped-call]
    families = {family.name for family in parsed}
    assert {metric.name.removesuffix("_total") for metric in METRICS} == families


def test_readings_are_asked_at_each_scrape() -> None:
    count = iter(range(1, 10))
    registry = CollectorRegistry()
    Metrics(
        registry,
        {"denied": lambda: {"homebound_denied_total": {("io_uring",): float(next(count))}}},
    )
    for expected in (1.0, 2.0):
        assert samples(registry)["homebound_denied_total", ("io_uring",)] == expected


def test_a_source_that_fails_leaves_a_gap_and_a_count() -> None:
    def broken() -> Readings:
        raise OSError("map is gone")

    registry = CollectorRegistry()
    Metrics(registry, {"denied": broken, "traffic": dict})
    found = samples(registry)
    assert found["homebound_collect_errors_total", ()] == 1.0
    assert ("homebound_denied_total", ("io_uring",)) not in found
    assert found["homebound_transmit_bytes_total", ("trainer",)] == 0.0
    assert found["homebound_collect_seconds", ()] >= 0


def test_what_nobody_knows_is_left_out() -> None:
    registry, _ = made({"homebound_memory_bytes": {("trainer",): None, ("guard",): 5.0}})
    found = samples(registry)
    assert ("homebound_memory_bytes", ("trainer",)) not in found
    assert found["homebound_memory_bytes", ("guard",)] == 5.0


def test_a_count_outside_of_the_set_is_shown_all_the_same() -> None:
    key = ("made_up",)
    assert key not in BY_NAME["homebound_denied_total"].values
    registry, _ = made({"homebound_denied_total": {key: 23.0, ("also_made_up",): 0.0}})
    found = samples(registry)
    assert found["homebound_denied_total", key] == 23.0
    assert ("homebound_denied_total", ("also_made_up",)) not in found


def test_undeclared_labels_are_refused() -> None:
    _, metrics = made()
    metrics.add("homebound_updates_rejected_total", "timeout")
    with pytest.raises(KeyError):
        metrics.add("homebound_updates_rejected_total", "made up")
    with pytest.raises(KeyError):
        metrics.set("homebound_role_up", 1, "canary")
    with pytest.raises(KeyError):
        metrics.add("homebound_made_up_total")
