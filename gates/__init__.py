"""Gate functions of soft advantage policy optimization (SAPO): pure mathematics on torch tensors.

Knows nothing else of the project.
"""

from gates.admissibility import AdmissibilityReport, check_admissible
from gates.gate import GATES, ClipGate, Gate, SoftGate, get_gate

__all__ = ["GATES", "AdmissibilityReport", "ClipGate", "Gate", "SoftGate", "check_admissible", "get_gate"]
