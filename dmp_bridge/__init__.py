"""The bridge to the patient's record: finding clinical documents in a message, deciding, depositing them (ITI-41).

Finding and deciding come at once; what deposits, with its task queue, when somebody asks for it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dmp_bridge.context import DepositContext
from dmp_bridge.decide import Desk, decide, plan_deposits
from dmp_bridge.find import Findings, FoundDocument, Problem, find_documents
from dmp_bridge.outlet import Outcome, Outlet, new_submission_set_id

if TYPE_CHECKING:
    from dmp_bridge.answers import interpret
    from dmp_bridge.deposit import DmpOutlet
    from dmp_bridge.worker import DepositDispatcher, Depositor, bind, enqueue, make_app, pause_after, run_worker

_LATER = {
    "DepositDispatcher": "dmp_bridge.worker",
    "Depositor": "dmp_bridge.worker",
    "DmpOutlet": "dmp_bridge.deposit",
    "bind": "dmp_bridge.worker",
    "enqueue": "dmp_bridge.worker",
    "interpret": "dmp_bridge.answers",
    "make_app": "dmp_bridge.worker",
    "pause_after": "dmp_bridge.worker",
    "run_worker": "dmp_bridge.worker",
}


def __getattr__(name: str) -> Any:
    """PEP 562."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LATER[name]), name)
    return value


__all__ = [
    "DepositContext",
    "DepositDispatcher",
    "Depositor",
    "Desk",
    "DmpOutlet",
    "Findings",
    "FoundDocument",
    "Outcome",
    "Outlet",
    "Problem",
    "bind",
    "decide",
    "enqueue",
    "find_documents",
    "interpret",
    "make_app",
    "new_submission_set_id",
    "pause_after",
    "plan_deposits",
    "run_worker",
]
