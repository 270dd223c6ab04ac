"""Gate functions of soft advantage policy optimization: pure math on torch tensors.

Nothing else of the project is known here.
"""

from gates.admissibility import AdmissibilityReport, check_admissible
from gates.gate import GATES, ClipGate, Gate, SoftGate, get_gate

__all__ = ["GATES", "AdmissibilityReport", "ClipGate", "Gate", "SoftGate", "check_admissible", "get_gate"]
