"""What was measured, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_LAGS = {"channel": "lag to the channel", "client": "lag to a client"}


def lines_of(results: dict[str, Any]) -> Iterator[str]:
    """Yield the lines that say what was measured."""
    for source, spans in results["update_progress"].items():
        yield _line("update_progress", source, f"{spans['p50_us']:,.1f} µs (p50), {spans['p99_us']:,.1f} µs (p99)")
    publish = results.get("publish")
    if publish is not None:
        ours, theirs = publish["with"]["p50_us"], publish["without"]["p50_us"]
        text = f"{ours:,.0f} µs with the extension, {theirs:,.0f} µs without (p50): {publish['extra_us']:+,.0f} µs"
        yield _line("publishing a job", "here", text)
    for place, by_source in results.get("lag", {}).items():
        for source, lag in by_source.items():
            yield _line(_LAGS[place], source, _lag(lag))
    deliveries = results.get("deliveries")
    if deliveries is not None:
        text = f"{deliveries['per_second']:,} a second to {deliveries['clients']} clients"
        busy = f"{deliveries['clients_busy']:.0%} of one processor was taken by the clients themselves"
        yield _line("deliveries", "here", f"{text}; {busy}")


def _lag(lag: dict[str, Any]) -> str:
    text = f"{lag['p50_ms']:,.2f} ms (p50), {lag['p99_ms']:,.2f} ms (p99), {lag['events']} events"
    return text if "tolerance_ms" not in lag else f"{text}, its clock is known to {lag['tolerance_ms']:,.1f} ms"


def _line(what: str, source: str, text: str) -> str:
    return f"{what:<20} {source:<24} {text}"
