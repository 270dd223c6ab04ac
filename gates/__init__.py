"""Gate functions of soft advantage policy optimization: pure math on torch tensors.

Nothing else of the project is known here.
"""

from gates.gate import GATES, ClipGate, Gate, SoftGate, get_gate

__all__ = ["GATES", "ClipGate", "Gate", "SoftGate", "get_gate"]
