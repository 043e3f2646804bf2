"""Check a dashboard against the types that Grafana publishes: those that its own code is written with."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

from tests.programs import require

#: What each type of panel has in ``options``, and in ``fieldConfig.defaults.custom``: the folder of its types.
PANELS = {"stat": "stat/panelcfg/x/Stat", "timeseries": "timeseries/panelcfg/x/TimeSeries"}
PANELS["state-timeline"] = "statetimeline/panelcfg/x/StateTimeline"

#: In JSON a member of an enumeration is its value.
JSON = """
type Json<T> = T extends string ? `${T}` : T extends (infer U)[] ? Json<U>[]
  : T extends object ? { [K in keyof T]: Json<T[K]> } : T;
"""


def faults_of(dashboard: dict[str, Any], folder: Path) -> str:
    """Return what Grafana's types say against a dashboard; nothing if they say nothing.

    Args:
        dashboard: Its JSON model.
        folder: Where files are put meanwhile.
    """
    file = folder / "dashboard.ts"
    file.write_text(_program(dashboard, f"{require('@grafana/schema')}/dist/esm/raw"))
    options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext"]
    command = [
        require("node"),
        f"{require('typescript')}/bin/tsc",
        *options,
        "--moduleResolution",
        "bundler",
        str(file),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240, cwd=folder)
    return done.stdout + done.stderr


def _program(dashboard: dict[str, Any], types: str) -> str:
    lines = [f'import type {{ Dashboard }} from "{types}/dashboard/x/dashboard_types.gen";', JSON]
    for name, path in PANELS.items():
        parts = f"* as {_word(name)}"
        lines.append(f'import type {parts} from "{types}/composable/{path}PanelCfg_types.gen";')
    lines.append(_constant("dashboard", "Dashboard", _without_what_sources_add(dashboard)))
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            continue
        kind, custom = _word(panel["type"]), panel["fieldConfig"]["defaults"].get("custom")
        lines.append(_constant(f"options{panel['id']}", f"{kind}.Options", panel["options"]))
        if custom is not None:
            lines.append(_constant(f"custom{panel['id']}", f"{kind}.FieldConfig", custom))
    return "\n".join([*lines, "export {};", ""])


def _word(name: str) -> str:
    return name.replace("-", "_")


def _constant(name: str, kind: str, value: Any) -> str:
    return f"const {name}: Json<{kind}> = {json.dumps(value)};"


def _without_what_sources_add(dashboard: dict[str, Any]) -> dict[str, Any]:
    """Return it without fields that are of a source of data, or that Grafana writes and its types do not know."""
    rest = copy.deepcopy(dashboard)
    for annotation in rest["annotations"]["list"]:
        for name in ("expr", "tagKeys", "textFormat", "titleFormat"):  # of the source "prometheus"
            annotation.pop(name, None)
    for variable in rest["templating"]["list"]:
        variable.pop("definition", None)
        if variable["current"] == {}:  # which is how a choice is exported that is left to whoever imports it
            del variable["current"]
    return rest
