"""Where device time went: history, ledger, incidents, report.

history = History.from_records(records, spans)     what the journal and the workers say
ledger = build_ledger(history)                     every device-nanosecond in exactly one leaf
report = build_report(history)                     the four factors, the waterfall, the incidents
"""

from __future__ import annotations

from myriarch.account.history import History
from myriarch.account.ledger import Ledger, build_ledger
from myriarch.account.report import Report, build_report, first_to_fix

__all__ = ["History", "Ledger", "Report", "build_ledger", "build_report", "first_to_fix"]
