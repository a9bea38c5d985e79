"""The pytest plugin: the fixture `gradcheck`, and the marker that sets its options.

    @pytest.mark.gradcheck(seed=3)
    def test_my_layer(gradcheck):
        gradcheck(forward, backward, x, weight)

A check that does not pass fails the test, with the report as the failure's text and the slip in pytest's summary.
Installing this package is enough: pytest finds the plugin by its entry point.
"""

from collections.abc import Callable
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "gradcheck(seed=0, **options): options of the fixture gradcheck, those of check_backward"
    )


@pytest.fixture
def gradcheck(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return check_backward, made to fail the test unless the check passes; it returns the report.

    `gradcheck.layer`, `gradcheck.gradient`, `gradcheck.vjp` and `gradcheck.autograd_function` do the same for the other
    checks of this package, and so do `gradcheck.jvp`, `gradcheck.hessian`, `gradcheck.double_backward`,
    `gradcheck.gradient_penalty`, `gradcheck.accumulation`, `gradcheck.batch_independence` and `gradcheck.causality`.
    """
    import numpy as np

    from . import accumulation, adapters, check, dependence, hessian, jvp, layer

    marker = request.node.get_closest_marker("gradcheck")
    marked = dict(marker.kwargs) if marker else {}
    if marker and marker.args:
        raise TypeError(f"the marker gradcheck takes keywords alone, such as seed={marker.args[0]!r}")
    seed = marked.pop("seed", 0)

    def passing(check: Callable) -> Callable:
        def run(*args: Any, **options: Any) -> Any:
            __tracebackhide__ = True
            report = check(*args, **({"rng": np.random.default_rng(seed)} | marked | options))
            if not report:
                pytest.fail(f"{report.in_short()}\n{report}", pytrace=False)
            return report

        return run

    checked = passing(check.check_backward)
    homes = {
        layer: ("layer",),
        adapters: ("gradient", "vjp", "autograd_function"),
        hessian: ("hessian", "double_backward", "gradient_penalty"),
        jvp: ("jvp",),
        accumulation: ("accumulation",),
        dependence: ("batch_independence", "causality"),
    }
    for home, names in homes.items():
        for name in names:
            setattr(checked, name, passing(getattr(home, f"check_{name}")))
    return checked
