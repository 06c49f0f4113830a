"""Whether the load generator is overloaded at this moment, by the bounds of `agent.load.strain`."""

from __future__ import annotations

from agent.load.strain import BUSY_SHARE, LAG_BOUND_MS

OVERLOADED = "overloaded, latencies include its delays"


def in_trouble(lag_ms: float, cpu: float) -> bool:
    """Whether latencies measured with such a lag and share of a core include much of this program's own."""
    return lag_ms > LAG_BOUND_MS or cpu > BUSY_SHARE


def strain(lag_ms: float, cpu: float) -> str:
    """The lag and the share of a core: ``lag 2 ms, CPU 45 %``."""
    lag = f"{lag_ms:.1f}" if lag_ms < 9.95 else f"{lag_ms:,.0f}"
    return f"lag {lag} ms, CPU {cpu * 100:.0f} %"
