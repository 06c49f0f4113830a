"""Whether the load generator is the bottleneck at this moment, by the bounds of `agent.report.generator`."""

from __future__ import annotations

from agent.report.generator import BUSY_SHARE, LAG_P99_MS


def in_trouble(lag_ms: float, cpu: float) -> bool:
    """Whether what was measured with such a lag and share of a core says more of this program than of the server."""
    return lag_ms > LAG_P99_MS or cpu > BUSY_SHARE


def strain(lag_ms: float, cpu: float) -> str:
    """The lag and the share of a core: ``lag 2 ms, CPU 45 %``."""
    lag = f"{lag_ms:.1f}" if lag_ms < 9.95 else f"{lag_ms:,.0f}"
    return f"lag {lag} ms, CPU {cpu * 100:.0f} %"
