"""The bridge to the patient's record: finding clinical documents in a message, deciding, depositing them (ITI-41)."""

from dmp_bridge.answers import interpret
from dmp_bridge.context import DepositContext
from dmp_bridge.decide import Desk, decide, plan_deposits
from dmp_bridge.deposit import DmpOutlet
from dmp_bridge.find import Findings, FoundDocument, Problem, find_documents
from dmp_bridge.outlet import Outcome, Outlet, new_submission_set_id
from dmp_bridge.worker import DepositDispatcher, Depositor, bind, enqueue, make_app, pause_after, run_worker

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
